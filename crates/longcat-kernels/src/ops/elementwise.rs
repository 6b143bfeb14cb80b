//! Gated residuals and gated units.
//!
//! All arithmetic is in f32 (f64 for f64 tensors), and each result has the dtype of the first input.

use burn::tensor::Tensor;

use crate::KernelBackend;
use crate::portable::{from_float, into_float};

/// `x + gate · y`.
///
/// `x` and `y` are `[.., C]` of one dtype; `gate` is `[G, C]` in f32, grouped as in
/// [`layer_norm`](crate::layer_norm).
///
/// # Panics
/// If the shapes differ, or the groups do not divide the rows.
pub fn gated_residual<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    y: Tensor<B, D>,
    gate: Tensor<B, 2>,
) -> Tensor<B, D> {
    assert_eq!(x.dims(), y.dims(), "gated_residual: shapes of x and y");
    assert_groups("gated_residual", x.dims(), gate.dims());
    from_float(B::gated_residual_forward(
        into_float(x),
        into_float(y),
        into_float(gate),
    ))
}

/// `silu(a) · b` for tensors of one shape and dtype; `silu(a)` is rounded to it before the product.
///
/// # Panics
/// If the shapes differ.
pub fn silu_mul<B: KernelBackend, const D: usize>(
    a: Tensor<B, D>,
    b: Tensor<B, D>,
) -> Tensor<B, D> {
    assert_eq!(a.dims(), b.dims(), "silu_mul: shapes of a and b");
    from_float(B::silu_mul_forward(into_float(a), into_float(b)))
}

/// Panics unless the rows of a table `[groups, C]` divide those of `[.., C]`.
pub(super) fn assert_groups<const D: usize>(name: &str, x: [usize; D], table: [usize; 2]) {
    let rows = x[..D - 1].iter().product::<usize>();
    let [count, width] = table;
    assert!(
        width == x[D - 1] && count > 0 && rows.is_multiple_of(count),
        "{name}: a table [{count}, {width}] does not divide the rows of {x:?}"
    );
}
