//! Attention for devices without tensor cores, and for shapes and dtypes they do not take.
//!
//! A cube holds square tiles: `side` queries against `side` keys, a unit per score. Unit `(x, y)`
//! also owns columns `x`, `x + side`, ... of row `y` of the cube's results. Only shared memory and
//! cube barriers are used, so it runs wherever cubecl runs; arithmetic is f32 throughout.

mod backward;
mod forward;

use cubecl::prelude::*;

pub(super) use backward::{
    ROW_PRODUCT_UNITS, backward_keys_plain, backward_queries_plain, row_products,
};
pub(super) use forward::forward_plain;

/// How the plain kernels are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlainTile {
    /// Elements per row.
    pub head_dim: usize,
    /// Queries and keys of a tile; a cube has `side * side` units.
    pub side: usize,
    /// Whether there is a block list.
    pub sparse: bool,
}

impl PlainTile {
    /// Result elements that one unit owns.
    pub const fn share(&self) -> usize {
        self.head_dim.div_ceil(self.side)
    }
    /// Elements between two rows of a shared tile; odd, so that rows start in different banks.
    pub const fn pitch(&self) -> usize {
        self.head_dim | 1
    }
    /// Elements of a shared tile.
    pub const fn elements(&self) -> usize {
        self.side * self.pitch()
    }
    /// Elements between two rows of the tile of scores.
    pub const fn score_pitch(&self) -> usize {
        self.side + 1
    }
    /// Bytes of shared memory of the backward kernels, which hold the most.
    pub const fn shared_bytes(&self) -> usize {
        (3 * self.elements() + self.side * self.score_pitch()) * 4
    }
}

/// Offset of row `token` of a `[B, H, N, D]` tensor.
#[cube]
pub(super) fn row_offset<E: Float>(
    tensor: &Tensor<E>,
    batch: usize,
    head: usize,
    token: u32,
) -> usize {
    batch * tensor.stride(0) + head * tensor.stride(1) + token as usize * tensor.stride(2)
}

/// Offset of an element of a `[B, H, N]` tensor.
#[cube]
pub(super) fn value_offset(tensor: &Tensor<f32>, batch: usize, head: usize, token: u32) -> usize {
    batch * tensor.stride(0) + head * tensor.stride(1) + token as usize * tensor.stride(2)
}

/// Copies one row into this unit row's row of a shared tile, or zeros where `present` is false.
#[cube]
pub(super) fn load_row<E: Float>(
    source: &Tensor<E>,
    offset: usize,
    present: bool,
    target: &mut SharedMemory<f32>,
    #[comptime] tile: PlainTile,
) {
    let stride = source.stride(3);
    let row = UNIT_POS_Y as usize * comptime!(tile.pitch());
    #[unroll]
    for part in 0..comptime!(tile.share()) {
        let column = comptime!(part * tile.side) + UNIT_POS_X as usize;
        if column < comptime!(tile.head_dim) {
            let mut value = f32::new(0.0);
            if present {
                value = f32::cast_from(source[offset + column * stride]);
            }
            target[row + column] = value;
        }
    }
}

/// Product of row `y` of one tile with row `x` of another.
#[cube]
pub(super) fn dot(
    left: &SharedMemory<f32>,
    right: &SharedMemory<f32>,
    #[comptime] tile: PlainTile,
) -> f32 {
    let a = UNIT_POS_Y as usize * comptime!(tile.pitch());
    let b = UNIT_POS_X as usize * comptime!(tile.pitch());
    let mut sum = f32::new(0.0);
    for i in 0..comptime!(tile.head_dim) {
        sum += left[a + i] * right[b + i];
    }
    sum
}

/// Adds row `y` of `weights` times the tile `rows` to this unit's share of the results.
#[cube]
pub(super) fn accumulate(
    weights: &SharedMemory<f32>,
    rows: &SharedMemory<f32>,
    acc: &mut Array<f32>,
    #[comptime] tile: PlainTile,
) {
    let weight_row = UNIT_POS_Y as usize * comptime!(tile.score_pitch());
    for i in 0..comptime!(tile.side) {
        let weight = weights[weight_row + i];
        #[unroll]
        for part in 0..comptime!(tile.share()) {
            let column = comptime!(part * tile.side) + UNIT_POS_X as usize;
            if column < comptime!(tile.head_dim) {
                acc[part] += weight * rows[i * comptime!(tile.pitch()) + column];
            }
        }
    }
}

/// Writes this unit's share of the results, times `factor`.
#[cube]
pub(super) fn store_row<E: Float>(
    target: &mut Tensor<E>,
    offset: usize,
    acc: &Array<f32>,
    factor: f32,
    #[comptime] tile: PlainTile,
) {
    #[unroll]
    for part in 0..comptime!(tile.share()) {
        let column = comptime!(part * tile.side) + UNIT_POS_X as usize;
        if column < comptime!(tile.head_dim) {
            target[offset + column] = E::cast_from(acc[part] * factor);
        }
    }
}

#[cube]
pub(super) fn zero_share(#[comptime] tile: PlainTile) -> Array<f32> {
    let mut acc = Array::<f32>::new(comptime!(tile.share()));
    #[unroll]
    for part in 0..comptime!(tile.share()) {
        acc[part] = 0.0f32;
    }
    acc
}

/// First token of a cube's tile, and the end of the tokens of its block.
///
/// Blocks of `block` tokens are cut into tiles of `side`; the last tile of a block may be short.
#[cube]
pub(super) fn block_tile(cube: u32, block: u32, tokens: u32, side: u32) -> (u32, u32) {
    let per_block = block.div_ceil(side);
    let start = (cube / per_block) * block;
    (start + (cube % per_block) * side, tokens.min(start + block))
}
