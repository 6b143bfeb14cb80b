//! Forward attention on tensor cores.

// Kernel code: `is_multiple_of` is not part of cubecl's language.
#![allow(clippy::manual_is_multiple_of)]

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::lists::*;
use super::mma::*;
use super::plain::block_tile;

/// How the forward kernel is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ForwardTile {
    /// Elements per row, a multiple of 16.
    pub head_dim: usize,
    /// Warps of a cube.
    pub warps: usize,
    /// 16-row tiles of queries per warp.
    pub row_tiles: usize,
    /// Keys per step, a multiple of 16; divides the key block of a list.
    pub keys: usize,
    /// Whether there is a block list.
    pub sparse: bool,
}

impl ForwardTile {
    /// Query rows of a cube.
    pub const fn rows(&self) -> usize {
        self.warps * self.row_tiles * 16
    }
    /// Units of a cube.
    pub const fn units(&self) -> usize {
        self.warps * 32
    }
    /// Elements of shared memory.
    pub const fn shared_elements(&self) -> usize {
        (self.rows() + 2 * self.keys) * padded(self.head_dim)
    }
}

/// The largest factor, as a power of two, by which probabilities may exceed 1 before the running
/// maximum is moved: rescaling is rare then, and sums stay far inside the range of f16 and f32.
const LAZY_EXPONENT: f32 = 8.0;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Maximum of a row that has seen no key; finite, so that differences are numbers.
const NO_MAXIMUM: f32 = -1.0e30;

/// Attention of `tile.rows()` queries of one (batch, head) over all keys, or over a list of blocks.
///
/// `q` `[B, H, Nq, D]`, `k`, `v` `[B, H, Nk, D]` with the last dimension contiguous and every other
/// stride a multiple of 8; `out` contiguous pairs of `[B, H, Nq, D]`; `lse` `[B, H, Nq]` contiguous.
/// `indices` `[B, H, Mq, K]`, `counts` `[B, H, Mq]` and `key_valid` `[Mk]` are read only by a sparse
/// tile. Cube `x` is the query tile, `y` the head, `z` the batch entry.
#[cube(launch_unchecked, fast_math = FastMath::all(), address_type = "dynamic")]
pub(super) fn forward_mma<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    out: &mut Tensor<Pair<E>>,
    lse: &mut Tensor<f32>,
    scale: f32,
    block_q: u32,
    block_k: u32,
    #[comptime] tile: ForwardTile,
    #[define(E)] _dtype: StorageType,
) {
    let pitch = comptime!(padded(tile.head_dim) as u32);
    let head_dim = comptime!(tile.head_dim);
    let units = comptime!(tile.units());
    let width = comptime!(tile.keys);
    let row_tiles = comptime!(tile.row_tiles);
    let score_tiles = comptime!(tile.keys / 8);
    let depth_tiles = comptime!(tile.head_dim / 8);

    let lane = UNIT_POS_PLANE;
    let warp = UNIT_POS / 32;
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let keys = k.shape(2) as u32;

    let (first_query, end_query) = block_tile(
        CUBE_POS_X,
        block_q,
        q.shape(2) as u32,
        comptime!(tile.rows() as u32),
    );
    let walk = walk(
        indices,
        counts,
        batch,
        head,
        first_query / block_q,
        block_k,
        keys,
        tile.sparse,
    );
    let steps = walk.length.div_ceil(comptime!(tile.keys as u32));

    let q_base = batch * q.stride(0) + head * q.stride(1);
    let k_base = batch * k.stride(0) + head * k.stride(1);
    let v_base = batch * v.stride(0) + head * v.stride(1);

    let mut q_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.rows() * padded(tile.head_dim)), 16usize);
    let mut k_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.keys * padded(tile.head_dim)), 16usize);
    let mut v_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.keys * padded(tile.head_dim)), 16usize);
    let k_ready = Barrier::shared(CUBE_DIM, UNIT_POS == 0);
    let v_ready = Barrier::shared(CUBE_DIM, UNIT_POS == 0);

    copy_rows::<E>(
        q,
        q_base,
        q.stride(2),
        first_query,
        end_query - 1,
        &mut q_tile,
        0u32,
        comptime!(tile.rows()),
        head_dim,
        units,
    );
    let mut valid = 0u32;
    if steps > 0 {
        let (start, real) = key_step(
            indices,
            key_valid,
            &walk,
            0u32.runtime(),
            width,
            tile.sparse,
        );
        valid = real;
        copy_rows::<E>(
            k,
            k_base,
            k.stride(2),
            start,
            keys - 1,
            &mut k_tile,
            0u32,
            width,
            head_dim,
            units,
        );
        k_ready.commit_copy_async();
        k_ready.arrive();
        copy_rows::<E>(
            v,
            v_base,
            v.stride(2),
            start,
            keys - 1,
            &mut v_tile,
            0u32,
            width,
            head_dim,
            units,
        );
        v_ready.commit_copy_async();
        v_ready.arrive();
    }

    let def = cmma::MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let mut acc = zeros(comptime!(row_tiles * depth_tiles));
    // Two rows per row tile: maximum of the unscaled scores, and this lane's share of the sum.
    let mut maxima = Array::<f32>::new(comptime!(2 * row_tiles));
    let mut sums = Array::<f32>::new(comptime!(2 * row_tiles));
    #[unroll]
    for i in 0..comptime!(2 * row_tiles) {
        maxima[i] = NO_MAXIMUM;
        sums[i] = 0.0f32;
    }
    let q_start = warp * comptime!((row_tiles * 16) as u32) * pitch;
    let lazy = LAZY_EXPONENT / (scale * LOG2_E);

    for step in 0..steps {
        let parity = step % 2;
        let mut scores = zeros(comptime!(row_tiles * score_tiles));
        k_ready.wait_parity(parity);
        #[unroll]
        for depth in 0..comptime!(tile.head_dim / 16) {
            let mut left = Sequence::<Array<Pair<E>>>::new();
            #[unroll]
            for m in 0..row_tiles {
                left.push(load_left::<E>(
                    &def,
                    &q_tile,
                    q_start + comptime!((m * 16) as u32 * pitch + (depth * 16) as u32),
                    pitch,
                ));
            }
            #[unroll]
            for n in 0..comptime!(tile.keys / 16) {
                let right = load_right_rows::<E>(
                    &def,
                    &k_tile,
                    comptime!((n * 16) as u32 * pitch + (depth * 16) as u32).runtime(),
                    pitch,
                );
                #[unroll]
                for m in 0..row_tiles {
                    multiply_pair::<E>(
                        &def,
                        left.index(m),
                        &right,
                        &mut scores,
                        comptime!(m * score_tiles + 2 * n),
                    );
                }
            }
        }
        sync_cube();
        let current_valid = valid;
        let mut next_start = 0u32;
        if step + 1 < steps {
            let (start, real) = key_step(indices, key_valid, &walk, step + 1, width, tile.sparse);
            next_start = start;
            valid = real;
            copy_rows::<E>(
                k,
                k_base,
                k.stride(2),
                start,
                keys - 1,
                &mut k_tile,
                0u32,
                width,
                head_dim,
                units,
            );
            k_ready.commit_copy_async();
            k_ready.arrive();
        }

        if current_valid < comptime!(tile.keys as u32) {
            #[unroll]
            for n in 0..score_tiles {
                let column = comptime!((n * 8) as u32) + (lane % 4) * 2;
                #[unroll]
                for m in 0..row_tiles {
                    let pair = scores.index_mut(comptime!(m * score_tiles + n));
                    mask_pair(pair, column, current_valid);
                }
            }
        }

        #[unroll]
        for m in 0..row_tiles {
            let mut high0 = f32::new(MASKED);
            let mut high1 = f32::new(MASKED);
            #[unroll]
            for n in 0..score_tiles {
                let pair = scores.index(comptime!(m * score_tiles + n));
                high0 = high0.max(pair[0][0].max(pair[0][1]));
                high1 = high1.max(pair[1][0].max(pair[1][1]));
            }
            high0 = quad_max(high0);
            high1 = quad_max(high1);
            let old0 = maxima[comptime!(2 * m)];
            let old1 = maxima[comptime!(2 * m + 1)];
            if plane_any(high0 > old0 + lazy || high1 > old1 + lazy) {
                let new0 = old0.max(high0);
                let new1 = old1.max(high1);
                let fade0 = ((old0 - new0) * scale).exp();
                let fade1 = ((old1 - new1) * scale).exp();
                maxima[comptime!(2 * m)] = new0;
                maxima[comptime!(2 * m + 1)] = new1;
                sums[comptime!(2 * m)] *= fade0;
                sums[comptime!(2 * m + 1)] *= fade1;
                #[unroll]
                for n in 0..depth_tiles {
                    let pair = acc.index_mut(comptime!(m * depth_tiles + n));
                    pair[0] *= Pair::<f32>::new(fade0);
                    pair[1] *= Pair::<f32>::new(fade1);
                }
            }
            let shift0 = maxima[comptime!(2 * m)] * scale;
            let shift1 = maxima[comptime!(2 * m + 1)] * scale;
            #[unroll]
            for n in 0..score_tiles {
                let pair = scores.index_mut(comptime!(m * score_tiles + n));
                let p0 = Pair::exp(pair[0] * Pair::<f32>::new(scale) - Pair::<f32>::new(shift0));
                let p1 = Pair::exp(pair[1] * Pair::<f32>::new(scale) - Pair::<f32>::new(shift1));
                sums[comptime!(2 * m)] += p0[0] + p0[1];
                sums[comptime!(2 * m + 1)] += p1[0] + p1[1];
                pair[0] = p0;
                pair[1] = p1;
            }
        }

        v_ready.wait_parity(parity);
        #[unroll]
        for depth in 0..comptime!(tile.keys / 16) {
            let mut left = Sequence::<Array<Pair<E>>>::new();
            #[unroll]
            for m in 0..row_tiles {
                left.push(accumulators_to_left::<E>(
                    scores.index(comptime!(m * score_tiles + 2 * depth)),
                    scores.index(comptime!(m * score_tiles + 2 * depth + 1)),
                ));
            }
            #[unroll]
            for n in 0..comptime!(tile.head_dim / 16) {
                let right = load_right_columns::<E>(
                    &def,
                    &v_tile,
                    comptime!((depth * 16) as u32 * pitch + (n * 16) as u32).runtime(),
                    pitch,
                );
                #[unroll]
                for m in 0..row_tiles {
                    multiply_pair::<E>(
                        &def,
                        left.index(m),
                        &right,
                        &mut acc,
                        comptime!(m * depth_tiles + 2 * n),
                    );
                }
            }
        }
        sync_cube();
        if step + 1 < steps {
            copy_rows::<E>(
                v,
                v_base,
                v.stride(2),
                next_start,
                keys - 1,
                &mut v_tile,
                0u32,
                width,
                head_dim,
                units,
            );
            v_ready.commit_copy_async();
            v_ready.arrive();
        }
    }

    let out_base = batch * out.stride(0) + head * out.stride(1);
    let lse_base = batch * lse.stride(0) + head * lse.stride(1);
    #[unroll]
    for m in 0..row_tiles {
        #[unroll]
        for half in 0..2usize {
            let row = first_query
                + warp * comptime!((row_tiles * 16) as u32)
                + comptime!((m * 16 + half * 8) as u32)
                + lane / 4;
            let sum = quad_sum(sums[comptime!(2 * m + half)]);
            if row < end_query {
                let inverse = select(sum > 0.0f32, 1.0f32 / sum, f32::new(0.0));
                if lane % 4 == 0 {
                    lse[lse_base + row as usize * lse.stride(2)] =
                        maxima[comptime!(2 * m + half)] * scale + sum.ln();
                }
                let start = (out_base + row as usize * out.stride(2)) / 2 + (lane % 4) as usize;
                #[unroll]
                for n in 0..depth_tiles {
                    let pair = acc.index(comptime!(m * depth_tiles + n))[half];
                    out[start + comptime!(n * 4)] =
                        Pair::<E>::cast_from(pair * Pair::<f32>::new(inverse));
                }
            }
        }
    }
}
