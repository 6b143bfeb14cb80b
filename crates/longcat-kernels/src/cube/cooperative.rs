//! Operands of cooperative matrices, whose layout only the driver knows: 16×16×16, two-byte floats and sums in
//! f32.

use cubecl::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind, StorageType};
use cubecl::prelude::*;

/// Side of the matrices.
pub(super) const SIDE: usize = 16;

/// What a device must have for numbers of this type.
pub(super) fn config(storage: StorageType) -> MmaConfig {
    MmaConfig {
        a_type: storage,
        b_type: storage,
        cd_type: ElemType::Float(FloatKind::F32).into(),
        m: SIDE as u32,
        n: SIDE as u32,
        k: SIDE as u32,
    }
}

/// A left operand, to be loaded.
#[cube]
pub(super) fn left<E: Float>() -> cmma::Matrix<E> {
    operand::<E>(cmma::MatrixIdent::A, cmma::MatrixLayout::RowMajor)
}

/// A right operand whose columns are rows in memory, to be loaded.
#[cube]
pub(super) fn right_of_rows<E: Float>() -> cmma::Matrix<E> {
    operand::<E>(cmma::MatrixIdent::B, cmma::MatrixLayout::ColMajor)
}

/// A right operand whose rows are rows in memory, to be loaded.
#[cube]
pub(super) fn right_of_columns<E: Float>() -> cmma::Matrix<E> {
    operand::<E>(cmma::MatrixIdent::B, cmma::MatrixLayout::RowMajor)
}

/// An operand, to be loaded.
#[cube]
fn operand<E: Float>(
    #[comptime] ident: cmma::MatrixIdent,
    #[comptime] layout: cmma::MatrixLayout,
) -> cmma::Matrix<E> {
    // SAFETY: whoever asks for one loads it before its use.
    unsafe { cmma::Matrix::<E>::uninitialized(ident, 16usize, 16usize, 16usize, layout) }
}

/// An accumulator of zeros.
#[cube]
pub(super) fn zeros() -> cmma::Matrix<f32> {
    cmma::Matrix::<f32>::from_value(
        cmma::MatrixIdent::Accumulator,
        16usize,
        16usize,
        16usize,
        cmma::MatrixLayout::Undefined,
        f32::new(0.0),
    )
}
