//! Forward attention on matrix units whose operands only the driver knows the layout of (Vulkan's
//! cooperative matrices).
//!
//! Scores pass through shared memory, where every unit finds half of a row. The running result stays in
//! matrices: it passes through shared memory when the maximum of a row has grown by much, which is rare. The next
//! step's keys are read before this step's scores, its values before this step's softmax, so that they are there when
//! shared memory is free for them.

use cubecl::prelude::*;

use super::lists::*;
use super::mma::{MASKED, padded};
use super::plain::block_tile;
use crate::cube::cooperative::{SIDE, left, right_of_columns, right_of_rows, zeros};

/// Eight two-byte numbers, which are copied at once. Matrices are loaded from memory of this type too: what a
/// driver knows of its alignment lets it take wide loads.
type Words = Vector<u32, Const<4>>;
/// Four values that are read at once.
type Quad<E> = Vector<E, Const<4>>;

/// Two-byte numbers in `Words`.
const WORD: usize = 8;
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
    /// Elements between two rows of scores; four rows of 32 bytes lie in different banks.
    pub const fn score_pitch(&self) -> usize {
        self.keys + 8
    }
    /// Elements between two rows of probabilities; eight rows of 16 bytes lie in different banks.
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
    q: &Tensor<Words>,
    k: &Tensor<Words>,
    v: &Tensor<Words>,
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
    // Between two rows: as cubecl counts it, in numbers of the type that memory has, and in words.
    let row_numbers = comptime!((padded(tile.head_dim) / 2) as u32);
    let pitch = comptime!((padded(tile.head_dim) / WORD) as u32);
    let values_start = comptime!((tile.keys * padded(tile.head_dim) / WORD) as u32);
    let score_pitch = comptime!(tile.score_pitch() as u32);
    let score_quads = comptime!((tile.score_pitch() / 4) as u32);
    let weight_pitch = comptime!(tile.weight_pitch() as u32);
    let weight_quads = comptime!((tile.weight_pitch() / 4) as u32);
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

    // Keys and values of a step; before the first, the queries.
    let mut rows = SharedMemory::<Words>::new_aligned(
        comptime!(2 * tile.keys * padded(tile.head_dim) / WORD),
        32usize,
    );
    let mut scores = SharedMemory::<Quad<f32>>::new_aligned(
        comptime!(tile.rows() * tile.score_pitch() / 4),
        32usize,
    );
    let mut weights = SharedMemory::<Quad<E>>::new_aligned(
        comptime!(tile.rows() * tile.weight_pitch() / 4),
        32usize,
    );
    let mut votes = SharedMemory::<u32>::new(comptime!(tile.planes));

    let first = fetch_rows(
        q,
        q_base,
        q.stride(2),
        first_query,
        end_query - 1,
        comptime!(tile.rows()),
        head_dim,
        units,
    );
    put_rows(
        &first,
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
        let at = (plane_row * pitch + comptime!((depth * SIDE / WORD) as u32)) as usize;
        cmma::load::<E, Words>(&query, &rows.slice(at, at + 2), row_numbers);
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
        let first = fetch_rows(
            k,
            k_base,
            k.stride(2),
            start,
            keys - 1,
            width,
            head_dim,
            units,
        );
        put_rows(&first, &mut rows, 0u32, width, head_dim, units);
        let first = fetch_rows(
            v,
            v_base,
            v.stride(2),
            start,
            keys - 1,
            width,
            head_dim,
            units,
        );
        put_rows(&first, &mut rows, values_start, width, head_dim, units);
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
    let score_row = row * score_quads;
    let plane_scores = (plane_row * score_quads) as usize;

    for step in 0..steps {
        // After the last step the last is read again, and not used.
        let next = (step + 1).min(steps - 1);
        let (next_start, next_valid) =
            key_step(indices, key_valid, &walk, next, width, tile.sparse);
        let next_keys = fetch_rows(
            k,
            k_base,
            k.stride(2),
            next_start,
            keys - 1,
            width,
            head_dim,
            units,
        );
        #[unroll]
        for n in 0..key_tiles {
            let score = zeros();
            #[unroll]
            for depth in 0..depth_tiles {
                let key = right_of_rows::<E>();
                let at =
                    comptime!((n * SIDE * padded(tile.head_dim) + depth * SIDE) / WORD).runtime();
                cmma::load::<E, Words>(&key, &rows.slice(at, at + 2), row_numbers);
                cmma::execute::<E, E, f32, f32>(queries.index(depth), &key, &score, &score);
            }
            let at = plane_scores + comptime!(n * SIDE / 4);
            cmma::store::<f32, Quad<f32>>(
                &mut scores.slice_mut(at, at + 4),
                &score,
                score_pitch,
                cmma::MatrixLayout::RowMajor,
            );
        }
        sync_cube();
        put_rows(&next_keys, &mut rows, 0u32, width, head_dim, units);
        let next_values = fetch_rows(
            v,
            v_base,
            v.stride(2),
            next_start,
            keys - 1,
            width,
            head_dim,
            units,
        );

        let mut mine = Array::<f32>::new(comptime!(tile.keys / 2));
        let mut high = f32::new(MASKED);
        #[unroll]
        for i in 0..comptime!(tile.keys / 8) {
            let quad = scores[(score_row + half + comptime!((2 * i) as u32)) as usize];
            #[unroll]
            for j in 0..4usize {
                let column = half * 4 + comptime!((8 * i + j) as u32);
                let score = select(column < valid, quad[j], f32::new(MASKED));
                let at = comptime!(4 * i + j).runtime();
                mine[at] = score;
                high = high.max(score);
            }
        }
        valid = next_valid;
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
                cmma::store::<f32, Quad<f32>>(
                    &mut scores.slice_mut(plane_scores, plane_scores + 4),
                    acc.index(n),
                    score_pitch,
                    cmma::MatrixLayout::RowMajor,
                );
                sync_cube();
                #[unroll]
                for i in 0..2usize {
                    let at = (score_row + half + comptime!((2 * i) as u32)) as usize;
                    let faded = scores[at] * Quad::<f32>::new(fade);
                    scores[at] = faded;
                }
                sync_cube();
                cmma::load_with_layout::<f32, Quad<f32>>(
                    acc.index(n),
                    &scores.slice(plane_scores, plane_scores + 4),
                    score_pitch,
                    cmma::MatrixLayout::RowMajor,
                );
                sync_cube();
            }
        }
        let shift = maximum * scale;
        let weight_row = row * weight_quads + half;
        #[unroll]
        for i in 0..comptime!(tile.keys / 8) {
            let mut quad = Quad::<f32>::new(0.0);
            #[unroll]
            for j in 0..4usize {
                let at = comptime!(4 * i + j).runtime();
                let weight = (mine[at] * scale - shift).exp();
                sum += weight;
                quad[j] = weight;
            }
            let to = (weight_row + comptime!((2 * i) as u32)) as usize;
            weights[to] = Quad::<E>::cast_from(quad);
        }
        sync_cube();

        #[unroll]
        for depth in 0..key_tiles {
            let weight = left::<E>();
            let at = (plane_row * weight_quads + comptime!((depth * SIDE / 4) as u32)) as usize;
            cmma::load::<E, Quad<E>>(&weight, &weights.slice(at, at + 4), weight_pitch);
            #[unroll]
            for n in 0..depth_tiles {
                let value = right_of_columns::<E>();
                let at = comptime!(
                    ((tile.keys + depth * SIDE) * padded(tile.head_dim) + n * SIDE) / WORD
                )
                .runtime();
                cmma::load::<E, Words>(&value, &rows.slice(at, at + 2), row_numbers);
                cmma::execute::<E, E, f32, f32>(&weight, &value, acc.index(n), acc.index(n));
            }
        }
        sync_cube();
        put_rows(
            &next_values,
            &mut rows,
            values_start,
            width,
            head_dim,
            units,
        );
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
        cmma::store::<f32, Quad<f32>>(
            &mut scores.slice_mut(plane_scores, plane_scores + 4),
            acc.index(n),
            score_pitch,
            cmma::MatrixLayout::RowMajor,
        );
        sync_cube();
        if query < end_query {
            #[unroll]
            for i in 0..2usize {
                let column = half * 2 + comptime!(i as u32);
                let quad = scores[(score_row + column) as usize] * Quad::<f32>::new(inverse);
                let to = out_row + comptime!(n * SIDE / 4) + column as usize;
                out[to] = Quad::<E>::cast_from(quad);
            }
        }
        sync_cube();
    }
}

/// Reads `rows` rows of `head_dim` elements, each unit its share.
///
/// `base` and `row_stride` are in elements; row `i` is read from `first + i`, or from `last` where
/// that lies beyond it.
#[cube]
fn fetch_rows(
    source: &Tensor<Words>,
    base: usize,
    row_stride: usize,
    first: u32,
    last: u32,
    #[comptime] rows: usize,
    #[comptime] head_dim: usize,
    #[comptime] units: usize,
) -> Sequence<Words> {
    let total = comptime!(rows * head_dim / WORD);
    let mut words = Sequence::<Words>::new();
    #[unroll]
    for pass in 0..comptime!(total.div_ceil(units)) {
        let word = place(comptime!((pass * units) as u32), total, units);
        let row = word / comptime!((head_dim / WORD) as u32);
        let column = word % comptime!((head_dim / WORD) as u32);
        let from = (base + (first + row).min(last) as usize * row_stride) / 8 + column as usize;
        words.push(source[from]);
    }
    words
}

/// Writes what [`fetch_rows`] read into shared memory from word `start` on.
#[cube]
fn put_rows(
    words: &Sequence<Words>,
    target: &mut SharedMemory<Words>,
    start: u32,
    #[comptime] rows: usize,
    #[comptime] head_dim: usize,
    #[comptime] units: usize,
) {
    let total = comptime!(rows * head_dim / WORD);
    #[unroll]
    for pass in 0..comptime!(total.div_ceil(units)) {
        let word = place(comptime!((pass * units) as u32), total, units);
        let row = word / comptime!((head_dim / WORD) as u32);
        let column = word % comptime!((head_dim / WORD) as u32);
        let to = start + row * comptime!((padded(head_dim) / WORD) as u32) + column;
        target[to as usize] = words[pass];
    }
}

/// The word of this unit from `first` on, of `total`; beyond the last one the last, which several units then read and
/// write alike.
#[cube]
fn place(#[comptime] first: u32, #[comptime] total: usize, #[comptime] units: usize) -> u32 {
    let word = UNIT_POS + first;
    if comptime!(total.is_multiple_of(units)) {
        word
    } else {
        let last = comptime!((total - 1) as u32).runtime();
        word.min(last)
    }
}
