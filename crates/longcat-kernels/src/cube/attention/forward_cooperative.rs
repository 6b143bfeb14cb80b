//! Forward attention on matrix units whose operands only the driver knows the layout of (Vulkan's
//! cooperative matrices).
//!
//! Scores pass through shared memory, where every unit finds half of a row. The running result stays in
//! matrices: it passes through shared memory when the maximum of a row has grown by much, which is rare.

// Kernel code: `is_multiple_of` is not part of cubecl's language; the branches of `copy_rows` differ in what is
// known when the kernel is compiled, which clippy does not see.
#![allow(clippy::manual_is_multiple_of, clippy::if_same_then_else)]

use cubecl::prelude::*;

use super::lists::*;
use super::mma::{MASKED, padded};
use super::plain::block_tile;
use crate::cube::cooperative::{SIDE, left, right_of_columns, right_of_rows, zeros};

/// Four values that are read at once.
type Quad<E> = Vector<E, Const<4>>;

/// The largest factor, as a power of two, by which probabilities may exceed 1 before the running
/// maximum is moved.
const LAZY_EXPONENT: f32 = 8.0;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Maximum of a row that has seen no key; finite, so that differences are numbers.
const NO_MAXIMUM: f32 = -1.0e30;

/// How the kernel is cut. A plane of 32 units takes 16 queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CooperativeTile {
    /// Elements per row, a multiple of 16.
    pub head_dim: usize,
    /// Planes of a cube, at most an eighth of `keys`.
    pub planes: usize,
    /// Keys per step, a multiple of 16; divides the key block of a list.
    pub keys: usize,
    /// Whether there is a block list.
    pub sparse: bool,
}

impl CooperativeTile {
    /// Query rows of a cube.
    pub const fn rows(&self) -> usize {
        self.planes * SIDE
    }
    /// Units of a cube.
    pub const fn units(&self) -> usize {
        self.planes * 32
    }
    /// Elements between two rows of scores; rows start at multiples of 16 bytes in different banks.
    pub const fn score_pitch(&self) -> usize {
        self.keys + 4
    }
    /// Elements between two rows of probabilities, likewise.
    pub const fn weight_pitch(&self) -> usize {
        self.keys + 8
    }
    /// Bytes of shared memory.
    pub const fn shared_bytes(&self) -> usize {
        let rows = 4 * self.score_pitch() + 2 * self.weight_pitch();
        4 * self.keys * padded(self.head_dim) + self.rows() * rows + 4 * self.planes
    }
}

/// Attention of `tile.rows()` queries of one (batch, head) over all keys, or over a list of blocks.
///
/// `q` `[B, H, Nq, D]`, `k`, `v` `[B, H, Nk, D]` with the last dimension contiguous and every other
/// stride a multiple of 8; `out` contiguous; `lse` `[B, H, Nq]` contiguous. `indices` `[B, H, Mq, K]`,
/// `counts` `[B, H, Mq]` and `key_valid` `[Mk]` are read only by a sparse tile. Cube `x` is the query tile,
/// `y` the head, `z` the batch entry. Planes have 32 units.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn forward_cooperative<E: Float>(
    q: &Tensor<Quad<E>>,
    k: &Tensor<Quad<E>>,
    v: &Tensor<Quad<E>>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    out: &mut Tensor<Quad<E>>,
    lse: &mut Tensor<f32>,
    scale: f32,
    block_q: u32,
    block_k: u32,
    #[comptime] tile: CooperativeTile,
    #[define(E)] _dtype: StorageType,
) {
    let head_dim = comptime!(tile.head_dim);
    let units = comptime!(tile.units());
    let width = comptime!(tile.keys);
    let row_elements = comptime!(padded(tile.head_dim) as u32);
    let pitch = comptime!((padded(tile.head_dim) / 4) as u32);
    let values_start = comptime!((tile.keys * padded(tile.head_dim) / 4) as u32);
    let score_pitch = comptime!(tile.score_pitch() as u32);
    let weight_pitch = comptime!(tile.weight_pitch() as u32);
    let depth_tiles = comptime!(tile.head_dim / SIDE);
    let key_tiles = comptime!(tile.keys / SIDE);

    let plane = UNIT_POS / 32;
    let lane = UNIT_POS_PLANE;
    let half = lane % 2;
    let plane_row = plane * comptime!(SIDE as u32);
    let row = plane_row + lane / 2;
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

    // Keys and values of a step; before the first, the queries. CUDA loads matrices from multiples of 32 bytes.
    let mut rows = SharedMemory::<Quad<E>>::new_aligned(
        comptime!(2 * tile.keys * padded(tile.head_dim) / 4),
        32usize,
    );
    let mut scores =
        SharedMemory::<f32>::new_aligned(comptime!(tile.rows() * tile.score_pitch()), 32usize);
    let mut weights =
        SharedMemory::<E>::new_aligned(comptime!(tile.rows() * tile.weight_pitch()), 32usize);
    let mut votes = SharedMemory::<u32>::new(comptime!(tile.planes));

    copy_rows::<E>(
        q,
        q_base,
        q.stride(2),
        first_query,
        end_query - 1,
        &mut rows,
        0u32,
        comptime!(tile.rows()),
        head_dim,
        units,
    );
    sync_cube();
    let mut queries = Sequence::<cmma::Matrix<E>>::new();
    #[unroll]
    for depth in 0..depth_tiles {
        let query = left::<E>();
        let at = (plane_row * pitch + comptime!((depth * SIDE / 4) as u32)) as usize;
        cmma::load::<E, Quad<E>>(&query, &rows.slice(at, at + 4), row_elements);
        queries.push(query);
    }
    sync_cube();

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
            &mut rows,
            0u32,
            width,
            head_dim,
            units,
        );
        copy_rows::<E>(
            v,
            v_base,
            v.stride(2),
            start,
            keys - 1,
            &mut rows,
            values_start,
            width,
            head_dim,
            units,
        );
    }
    sync_cube();

    let mut acc = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..depth_tiles {
        acc.push(zeros());
    }
    // Both units of a row have its maximum, and each the sum of its half.
    let mut maximum = f32::new(NO_MAXIMUM);
    let mut sum = f32::new(0.0);
    let lazy = LAZY_EXPONENT / (scale * LOG2_E);
    let score_row = row * score_pitch;
    let plane_scores = (plane_row * score_pitch) as usize;

    for step in 0..steps {
        #[unroll]
        for n in 0..key_tiles {
            let score = zeros();
            #[unroll]
            for depth in 0..depth_tiles {
                let key = right_of_rows::<E>();
                let at =
                    comptime!(n * SIDE * padded(tile.head_dim) / 4 + depth * SIDE / 4).runtime();
                cmma::load::<E, Quad<E>>(&key, &rows.slice(at, at + 4), row_elements);
                cmma::execute::<E, E, f32, f32>(queries.index(depth), &key, &score, &score);
            }
            let at = plane_scores + comptime!(n * SIDE);
            cmma::store::<f32, f32>(
                &mut scores.slice_mut(at, at + 16),
                &score,
                score_pitch,
                cmma::MatrixLayout::RowMajor,
            );
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
                &mut rows,
                0u32,
                width,
                head_dim,
                units,
            );
        }

        let mut mine = Array::<f32>::new(comptime!(tile.keys / 2));
        let mut high = f32::new(MASKED);
        #[unroll]
        for i in 0..comptime!(tile.keys / 2) {
            let column = comptime!((2 * i) as u32) + half;
            let score = scores[(score_row + column) as usize];
            let score = select(column < current_valid, score, f32::new(MASKED));
            mine[i] = score;
            high = high.max(score);
        }
        high = high.max(plane_shuffle_xor(high, 1u32));
        let grown = plane_any(high > maximum + lazy);
        if lane == 0 {
            votes[plane as usize] = u32::cast_from(grown);
        }
        sync_cube();
        let mut any_grown = 0u32;
        #[unroll]
        for i in 0..comptime!(tile.planes) {
            any_grown += votes[i];
        }
        // All planes of a cube or none, so that barriers are met by all.
        if any_grown > 0 {
            let new = maximum.max(high);
            let fade = ((maximum - new) * scale).exp();
            maximum = new;
            sum *= fade;
            #[unroll]
            for n in 0..depth_tiles {
                cmma::store::<f32, f32>(
                    &mut scores.slice_mut(plane_scores, plane_scores + 16),
                    acc.index(n),
                    score_pitch,
                    cmma::MatrixLayout::RowMajor,
                );
                sync_cube();
                #[unroll]
                for i in 0..comptime!(SIDE / 2) {
                    let at = (score_row + comptime!((2 * i) as u32) + half) as usize;
                    scores[at] *= fade;
                }
                sync_cube();
                cmma::load_with_layout::<f32, f32>(
                    acc.index(n),
                    &scores.slice(plane_scores, plane_scores + 16),
                    score_pitch,
                    cmma::MatrixLayout::RowMajor,
                );
                sync_cube();
            }
        }
        let shift = maximum * scale;
        let weight_row = row * weight_pitch + half;
        #[unroll]
        for i in 0..comptime!(tile.keys / 2) {
            let weight = (mine[i] * scale - shift).exp();
            sum += weight;
            weights[(weight_row + comptime!((2 * i) as u32)) as usize] = E::cast_from(weight);
        }
        sync_cube();

        #[unroll]
        for depth in 0..key_tiles {
            let weight = left::<E>();
            let at = (plane_row * weight_pitch + comptime!((depth * SIDE) as u32)) as usize;
            cmma::load::<E, E>(&weight, &weights.slice(at, at + 16), weight_pitch);
            #[unroll]
            for n in 0..depth_tiles {
                let value = right_of_columns::<E>();
                let at = comptime!(
                    (tile.keys + depth * SIDE) * padded(tile.head_dim) / 4 + n * SIDE / 4
                )
                .runtime();
                cmma::load::<E, Quad<E>>(&value, &rows.slice(at, at + 4), row_elements);
                cmma::execute::<E, E, f32, f32>(&weight, &value, acc.index(n), acc.index(n));
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
                &mut rows,
                values_start,
                width,
                head_dim,
                units,
            );
        }
    }

    let total = sum + plane_shuffle_xor(sum, 1u32);
    let inverse = select(total > 0.0f32, 1.0f32 / total, f32::new(0.0));
    let query = first_query + row;
    let lse_base = batch * lse.stride(0) + head * lse.stride(1);
    if query < end_query && half == 0 {
        lse[lse_base + query as usize * lse.stride(2)] = maximum * scale + total.ln();
    }
    let out_base = batch * out.stride(0) + head * out.stride(1);
    let out_row = (out_base + query as usize * out.stride(2)) / 4;
    #[unroll]
    for n in 0..depth_tiles {
        cmma::store::<f32, f32>(
            &mut scores.slice_mut(plane_scores, plane_scores + 16),
            acc.index(n),
            score_pitch,
            cmma::MatrixLayout::RowMajor,
        );
        sync_cube();
        if query < end_query {
            #[unroll]
            for i in 0..2usize {
                let column = half * 8 + comptime!((i * 4) as u32);
                let from = (score_row + column) as usize;
                let mut quad = Quad::<f32>::new(0.0);
                #[unroll]
                for j in 0..4usize {
                    quad[j] = scores[from + j] * inverse;
                }
                let to = out_row + comptime!(n * SIDE / 4) + (column / 4) as usize;
                out[to] = Quad::<E>::cast_from(quad);
            }
        }
        sync_cube();
    }
}

/// Copies `rows` rows of `head_dim` elements into shared memory from quad `start` on, four elements at a
/// time.
///
/// `base` and `row_stride` are in elements; row `i` is read from `first + i`, or from `last` where
/// that lies beyond it.
#[cube]
fn copy_rows<E: Float>(
    source: &Tensor<Quad<E>>,
    base: usize,
    row_stride: usize,
    first: u32,
    last: u32,
    target: &mut SharedMemory<Quad<E>>,
    start: u32,
    #[comptime] rows: usize,
    #[comptime] head_dim: usize,
    #[comptime] units: usize,
) {
    let total = comptime!(rows * head_dim / 4);
    #[unroll]
    for pass in 0..comptime!(total.div_ceil(units)) {
        let unit = UNIT_POS + comptime!((pass * units) as u32);
        if comptime!(total % units == 0) {
            copy_quad::<E>(
                source, base, row_stride, first, last, target, start, unit, head_dim,
            );
        } else if unit < comptime!(total as u32) {
            copy_quad::<E>(
                source, base, row_stride, first, last, target, start, unit, head_dim,
            );
        }
    }
}

#[cube]
fn copy_quad<E: Float>(
    source: &Tensor<Quad<E>>,
    base: usize,
    row_stride: usize,
    first: u32,
    last: u32,
    target: &mut SharedMemory<Quad<E>>,
    start: u32,
    unit: u32,
    #[comptime] head_dim: usize,
) {
    let row = unit / comptime!((head_dim / 4) as u32);
    let column = unit % comptime!((head_dim / 4) as u32);
    let from = (base + (first + row).min(last) as usize * row_stride) / 4 + column as usize;
    let to = start + row * comptime!((padded(head_dim) / 4) as u32) + column;
    target[to as usize] = source[from];
}
