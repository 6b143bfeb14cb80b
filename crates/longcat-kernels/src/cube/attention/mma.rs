//! Tensor-core building blocks shared by the forward and backward kernels.
//!
//! All matrix instructions are `m16n8k16` with f32 accumulation. In the accumulator, lane `l` holds
//! rows `l / 4` and `l / 4 + 8`, columns `2 * (l % 4)` and the next: a pair of accumulators of
//! neighbouring 8-column tiles has exactly the register layout of a 16x16 left operand, so a score
//! tile feeds the next product without leaving registers (Dao, FlashAttention-2, 2023).

// The branches of `copy_rows` differ in what is known at compile time, which clippy does not see.
#![allow(clippy::if_same_then_else)]

use cubecl::prelude::barrier::copy_async;
use cubecl::prelude::*;

/// Two values of one register.
pub(super) type Pair<E> = Vector<E, Const<2>>;
/// Tiles of f32 accumulators, each two registers pairs: row `l / 4` and row `l / 4 + 8`.
pub(super) type Accumulators = Sequence<Array<Pair<f32>>>;

/// Score of a masked key.
pub(super) const MASKED: f32 = -3.0e38;

/// Elements between two rows of a shared tile: eight more than the row, so that the eight rows of
/// an 8x8 matrix start in different banks.
pub(super) const fn padded(head_dim: usize) -> usize {
    head_dim + 8
}

/// `count` accumulator tiles of zeros.
#[cube]
pub(super) fn zeros(#[comptime] count: usize) -> Accumulators {
    let mut tiles = Sequence::<Array<Pair<f32>>>::new();
    #[unroll]
    for _ in 0..count {
        let mut tile = Array::<Pair<f32>>::new(2usize);
        tile[0] = Pair::<f32>::new(0.0);
        tile[1] = Pair::<f32>::new(0.0);
        tiles.push(tile);
    }
    tiles
}

/// Starts copying `rows` rows of `head_dim` elements into a shared tile, 16 bytes at a time.
///
/// `base` and `row_stride` are in elements; row `i` is read from `first + i`, or from `last` where
/// that lies beyond it (such rows are masked later; reading them keeps the addresses valid).
#[cube]
pub(super) fn copy_rows<E: Float>(
    source: &Tensor<E>,
    base: usize,
    row_stride: usize,
    first: u32,
    last: u32,
    tile: &mut SharedMemory<E>,
    tile_start: u32,
    #[comptime] rows: usize,
    #[comptime] head_dim: usize,
    #[comptime] units: usize,
) {
    let chunks = comptime!(head_dim / 8);
    let pitch = comptime!(padded(head_dim) as u32);
    let total = comptime!(rows * chunks);
    let passes = comptime!(total.div_ceil(units));
    #[unroll]
    for pass in 0..passes {
        let unit = UNIT_POS + comptime!((pass * units) as u32);
        if comptime!(total % units == 0) {
            copy_chunk::<E>(
                source, base, row_stride, first, last, tile, tile_start, unit, chunks, pitch,
            );
        } else if unit < comptime!(total as u32) {
            copy_chunk::<E>(
                source, base, row_stride, first, last, tile, tile_start, unit, chunks, pitch,
            );
        }
    }
}

#[cube]
fn copy_chunk<E: Float>(
    source: &Tensor<E>,
    base: usize,
    row_stride: usize,
    first: u32,
    last: u32,
    tile: &mut SharedMemory<E>,
    tile_start: u32,
    unit: u32,
    #[comptime] chunks: usize,
    #[comptime] pitch: u32,
) {
    let row = unit / comptime!(chunks as u32);
    let column = (unit % comptime!(chunks as u32)) * 8;
    let from = base + (first + row).min(last) as usize * row_stride + column as usize;
    let to = (tile_start + row * pitch + column) as usize;
    copy_async(
        &source.slice(from, from + 8),
        &mut tile.slice_mut(to, to + 8),
        8u32,
    );
}

/// Loads a 16x16 left operand whose rows are rows of the shared tile.
///
/// `start` is the element offset of the operand in the tile.
#[cube]
pub(super) fn load_left<E: Float>(
    def: &cmma::MmaDefinition<E, E, f32>,
    tile: &SharedMemory<E>,
    start: u32,
    #[comptime] pitch: u32,
) -> Array<Pair<E>> {
    let lane = UNIT_POS_PLANE;
    let at = (start + (lane % 16) * pitch + (lane / 16) * 8) as usize;
    let mut fragment = Array::<Pair<E>>::new(4usize);
    def.load_matrix_inplace::<E, Const<2>>(
        &tile.slice(at, at + 8),
        &mut fragment,
        cmma::MatrixIdent::A,
        4usize,
        false,
    );
    fragment
}

/// Loads two right operands (16 deep, 8 wide each) whose columns are 16 rows of the shared tile, as
/// for `x · tileᵀ`. Registers 0 and 1 are the first operand, 2 and 3 the second.
#[cube]
pub(super) fn load_right_rows<E: Float>(
    def: &cmma::MmaDefinition<E, E, f32>,
    tile: &SharedMemory<E>,
    start: u32,
    #[comptime] pitch: u32,
) -> Array<Pair<E>> {
    let lane = UNIT_POS_PLANE;
    let row = lane % 8 + (lane / 16) * 8;
    let at = (start + row * pitch + (lane / 8 % 2) * 8) as usize;
    let mut fragment = Array::<Pair<E>>::new(4usize);
    def.load_matrix_inplace::<E, Const<2>>(
        &tile.slice(at, at + 8),
        &mut fragment,
        cmma::MatrixIdent::B,
        4usize,
        false,
    );
    fragment
}

/// Loads two right operands (16 deep, 8 wide each) whose rows are 16 rows of the shared tile, as
/// for `x · tile`. Registers 0 and 1 are the first operand, 2 and 3 the second.
#[cube]
pub(super) fn load_right_columns<E: Float>(
    def: &cmma::MmaDefinition<E, E, f32>,
    tile: &SharedMemory<E>,
    start: u32,
    #[comptime] pitch: u32,
) -> Array<Pair<E>> {
    let lane = UNIT_POS_PLANE;
    let at = (start + (lane % 16) * pitch + (lane / 16) * 8) as usize;
    let mut fragment = Array::<Pair<E>>::new(4usize);
    def.load_matrix_inplace::<E, Const<2>>(
        &tile.slice(at, at + 8),
        &mut fragment,
        cmma::MatrixIdent::B,
        4usize,
        true,
    );
    fragment
}

/// Adds the products of a left operand with the two right operands of a fragment to the
/// accumulator tiles `first` and `first + 1`.
#[cube]
pub(super) fn multiply_pair<E: Float>(
    def: &cmma::MmaDefinition<E, E, f32>,
    left: &Array<Pair<E>>,
    right: &Array<Pair<E>>,
    acc: &mut Accumulators,
    #[comptime] first: usize,
) {
    let mut b0 = Array::<Pair<E>>::new(2usize);
    b0[0] = right[0];
    b0[1] = right[1];
    def.execute_inplace::<Const<2>, Const<2>, Const<2>>(left, &b0, acc.index_mut(first));
    let mut b1 = Array::<Pair<E>>::new(2usize);
    b1[0] = right[2];
    b1[1] = right[3];
    def.execute_inplace::<Const<2>, Const<2>, Const<2>>(
        left,
        &b1,
        acc.index_mut(comptime!(first + 1)),
    );
}

/// Rounds two neighbouring accumulator tiles to a 16x16 left operand.
#[cube]
pub(super) fn accumulators_to_left<E: Float>(
    first: &Array<Pair<f32>>,
    second: &Array<Pair<f32>>,
) -> Array<Pair<E>> {
    let mut left = Array::<Pair<E>>::new(4usize);
    left[0] = Pair::<E>::cast_from(first[0]);
    left[1] = Pair::<E>::cast_from(first[1]);
    left[2] = Pair::<E>::cast_from(second[0]);
    left[3] = Pair::<E>::cast_from(second[1]);
    left
}

/// Sum over the four lanes that share an accumulator row.
#[cube]
pub(super) fn quad_sum(value: f32) -> f32 {
    let pair = value + plane_shuffle_xor(value, 1u32);
    pair + plane_shuffle_xor(pair, 2u32)
}

/// Maximum over the four lanes that share an accumulator row.
#[cube]
pub(super) fn quad_max(value: f32) -> f32 {
    let pair = value.max(plane_shuffle_xor(value, 1u32));
    pair.max(plane_shuffle_xor(pair, 2u32))
}

/// Masks the columns from `valid` on, of a tile whose first column in this lane is `column`.
#[cube]
pub(super) fn mask_pair(pair: &mut Array<Pair<f32>>, column: u32, valid: u32) {
    #[unroll]
    for half in 0..2usize {
        let mut values = pair[half];
        if column >= valid {
            values[0] = f32::new(MASKED);
        }
        if column + 1 >= valid {
            values[1] = f32::new(MASKED);
        }
        pair[half] = values;
    }
}
