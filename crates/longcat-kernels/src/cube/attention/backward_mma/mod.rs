//! Backward attention on tensor cores.
//!
//! Two passes recompute the probabilities from the log-sum-exp, one per operand that stays put: a
//! cube of queries walks keys for `dq`, a cube of keys walks queries for `dk` and `dv`. Nothing is
//! summed across cubes, so gradients are the same in every run.

mod keys;
mod queries;

use cubecl::prelude::*;

use super::mma::*;

pub(super) use keys::backward_keys_mma;
pub(super) use queries::backward_queries_mma;

/// How a backward kernel is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cube::attention) struct BackwardTile {
    /// Elements per row, a multiple of 16.
    pub head_dim: usize,
    /// Warps of a cube.
    pub warps: usize,
    /// 16-row tiles of results per warp.
    pub row_tiles: usize,
    /// Tokens walked per step, a multiple of 16; divides the blocks that are walked.
    pub width: usize,
    /// Whether there is a block list.
    pub sparse: bool,
}

impl BackwardTile {
    /// Result rows of a cube.
    pub const fn rows(&self) -> usize {
        self.warps * self.row_tiles * 16
    }
    /// Units of a cube.
    pub const fn units(&self) -> usize {
        self.warps * 32
    }
    /// Elements of shared memory, and bytes of row statistics.
    pub const fn shared_elements(&self) -> usize {
        (2 * self.rows() + 3 * self.width) * padded(self.head_dim)
    }
}

/// `acc = rows of left tile · (rows of right tile)ᵀ`, `row_tiles` by `width / 8` tiles.
#[cube]
pub(super) fn product_with_rows<E: Float>(
    def: &cmma::MmaDefinition<E, E, f32>,
    left: &SharedMemory<E>,
    left_start: u32,
    right: &SharedMemory<E>,
    right_start: u32,
    #[comptime] tile: BackwardTile,
) -> Accumulators {
    let pitch = comptime!(padded(tile.head_dim) as u32);
    let row_tiles = comptime!(tile.row_tiles);
    let columns = comptime!(tile.width / 8);
    let mut acc = zeros(comptime!(row_tiles * columns));
    #[unroll]
    for depth in 0..comptime!(tile.head_dim / 16) {
        let mut fragments = Sequence::<Array<Pair<E>>>::new();
        #[unroll]
        for m in 0..row_tiles {
            fragments.push(load_left::<E>(
                def,
                left,
                left_start + comptime!((m * 16) as u32 * pitch + (depth * 16) as u32),
                pitch,
            ));
        }
        #[unroll]
        for n in 0..comptime!(tile.width / 16) {
            let fragment = load_right_rows::<E>(
                def,
                right,
                right_start + comptime!((n * 16) as u32 * pitch + (depth * 16) as u32),
                pitch,
            );
            #[unroll]
            for m in 0..row_tiles {
                multiply_pair::<E>(
                    def,
                    fragments.index(m),
                    &fragment,
                    &mut acc,
                    comptime!(m * columns + 2 * n),
                );
            }
        }
    }
    acc
}

/// `acc += weights · right tile`, where `weights` are accumulators rounded to `E`.
#[cube]
pub(super) fn add_product<E: Float>(
    def: &cmma::MmaDefinition<E, E, f32>,
    weights: &Accumulators,
    right: &SharedMemory<E>,
    right_start: u32,
    acc: &mut Accumulators,
    #[comptime] tile: BackwardTile,
) {
    let pitch = comptime!(padded(tile.head_dim) as u32);
    let row_tiles = comptime!(tile.row_tiles);
    let columns = comptime!(tile.width / 8);
    let depth_tiles = comptime!(tile.head_dim / 8);
    #[unroll]
    for depth in 0..comptime!(tile.width / 16) {
        let mut fragments = Sequence::<Array<Pair<E>>>::new();
        #[unroll]
        for m in 0..row_tiles {
            fragments.push(accumulators_to_left::<E>(
                weights.index(comptime!(m * columns + 2 * depth)),
                weights.index(comptime!(m * columns + 2 * depth + 1)),
            ));
        }
        #[unroll]
        for n in 0..comptime!(tile.head_dim / 16) {
            let fragment = load_right_columns::<E>(
                def,
                right,
                right_start + comptime!((depth * 16) as u32 * pitch + (n * 16) as u32),
                pitch,
            );
            #[unroll]
            for m in 0..row_tiles {
                multiply_pair::<E>(
                    def,
                    fragments.index(m),
                    &fragment,
                    acc,
                    comptime!(m * depth_tiles + 2 * n),
                );
            }
        }
    }
}

/// Writes this lane's rows of the results times `factor`, or zeros where `keep` is false.
#[cube]
pub(super) fn store_rows<E: Float>(
    target: &mut Tensor<Pair<E>>,
    base: usize,
    first: u32,
    end: u32,
    real_end: u32,
    acc: &Accumulators,
    factor: f32,
    #[comptime] tile: BackwardTile,
) {
    let lane = UNIT_POS_PLANE;
    let row_tiles = comptime!(tile.row_tiles);
    let depth_tiles = comptime!(tile.head_dim / 8);
    #[unroll]
    for m in 0..row_tiles {
        #[unroll]
        for half in 0..2usize {
            let row = first
                + (UNIT_POS / 32) * comptime!((row_tiles * 16) as u32)
                + comptime!((m * 16 + half * 8) as u32)
                + lane / 4;
            if row < end {
                let start = (base + row as usize * target.stride(2)) / 2 + (lane % 4) as usize;
                #[unroll]
                for n in 0..depth_tiles {
                    let mut pair =
                        acc.index(comptime!(m * depth_tiles + n))[half] * Pair::<f32>::new(factor);
                    if row >= real_end {
                        pair = Pair::<f32>::new(0.0);
                    }
                    target[start + comptime!(n * 4)] = Pair::<E>::cast_from(pair);
                }
            }
        }
    }
}
