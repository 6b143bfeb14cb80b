//! Attention for devices without tensor cores, and for shapes and dtypes they do not take.
//!
//! A cube holds square tiles: `side` queries against `side` keys, a unit per score. Unit `(x, y)`
//! also owns columns `x`, `x + side`, ... of row `y` of the cube's results. Only shared memory and
//! cube barriers are used, so it runs wherever cubecl runs; arithmetic is f32 throughout.

use cubecl::prelude::*;

use super::lists::*;

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
    const fn share(&self) -> usize {
        self.head_dim.div_ceil(self.side)
    }
    /// Elements between two rows of a shared tile; odd, so that rows start in different banks.
    const fn pitch(&self) -> usize {
        self.head_dim | 1
    }
    const fn elements(&self) -> usize {
        self.side * self.pitch()
    }
    /// Elements between two rows of the tile of scores.
    const fn score_pitch(&self) -> usize {
        self.side + 1
    }
}

const NO_MAXIMUM: f32 = -1.0e30;

/// Offset of row `token` of a `[B, H, N, D]` tensor.
#[cube]
fn row_offset<E: Float>(tensor: &Tensor<E>, batch: usize, head: usize, token: u32) -> usize {
    batch * tensor.stride(0) + head * tensor.stride(1) + token as usize * tensor.stride(2)
}

/// Offset of an element of a `[B, H, N]` tensor.
#[cube]
fn value_offset(tensor: &Tensor<f32>, batch: usize, head: usize, token: u32) -> usize {
    batch * tensor.stride(0) + head * tensor.stride(1) + token as usize * tensor.stride(2)
}

/// Copies one row into this unit row's row of a shared tile, or zeros where `present` is false.
#[cube]
fn load_row<E: Float>(
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
fn dot(left: &SharedMemory<f32>, right: &SharedMemory<f32>, #[comptime] tile: PlainTile) -> f32 {
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
fn accumulate(
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
fn store_row<E: Float>(
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
fn zero_share(#[comptime] tile: PlainTile) -> Array<f32> {
    let mut acc = Array::<f32>::new(comptime!(tile.share()));
    #[unroll]
    for part in 0..comptime!(tile.share()) {
        acc[part] = 0.0f32;
    }
    acc
}

/// Forward attention. Shapes as in [`forward_mma`](super::forward_mma::forward_mma), any strides of
/// the inputs, last dimension of `out` contiguous, any head size, any block sizes.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn forward_plain<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    out: &mut Tensor<E>,
    lse: &mut Tensor<f32>,
    scale: f32,
    block_q: u32,
    block_k: u32,
    #[comptime] tile: PlainTile,
    #[define(E)] _dtype: StorageType,
) {
    let side = comptime!(tile.side as u32);
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let (first, end) = block_tile(CUBE_POS_X, block_q, q.shape(2) as u32, side);
    let query = first + UNIT_POS_Y;
    let walk = walk(
        indices,
        counts,
        batch,
        head,
        first / block_q,
        block_k,
        k.shape(2) as u32,
        tile.sparse,
    );

    let mut queries = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut rows = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut weights = SharedMemory::<f32>::new(comptime!(tile.side * tile.score_pitch()));
    load_row::<E>(
        q,
        row_offset::<E>(q, batch, head, query),
        query < end,
        &mut queries,
        tile,
    );

    let mut acc = zero_share(tile);
    let mut maximum = f32::new(NO_MAXIMUM);
    let mut sum = f32::new(0.0);
    let weight_row = UNIT_POS_Y as usize * comptime!(tile.score_pitch());
    let mine = weight_row + UNIT_POS_X as usize;
    for step in 0..walk.length.div_ceil(side) {
        // Loads are by row (y), scores by column (x): two positions in the walk.
        let loaded = step * side + UNIT_POS_Y;
        let mut token = 0u32;
        if loaded < walk.length {
            token = token_at(indices, &walk, loaded, tile.sparse);
        }
        load_row::<E>(
            k,
            row_offset::<E>(k, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        let score = dot(&queries, &rows, tile) * scale;
        let scored = step * side + UNIT_POS_X;
        let mut present = scored < walk.length;
        if present {
            present = is_real(
                key_valid,
                token_at(indices, &walk, scored, tile.sparse),
                block_k,
                tile.sparse,
            );
        }
        weights[mine] = select(present, score, f32::new(NO_MAXIMUM));
        sync_cube();
        let mut highest = maximum;
        for i in 0..comptime!(tile.side) {
            highest = highest.max(weights[weight_row + i]);
        }
        load_row::<E>(
            v,
            row_offset::<E>(v, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        weights[mine] = select(present, (score - highest).exp(), f32::new(0.0));
        sync_cube();
        let fade = (maximum - highest).exp();
        maximum = highest;
        sum *= fade;
        for i in 0..comptime!(tile.side) {
            sum += weights[weight_row + i];
        }
        #[unroll]
        for part in 0..comptime!(tile.share()) {
            acc[part] *= fade;
        }
        accumulate(&weights, &rows, &mut acc, tile);
        sync_cube();
    }

    if query < end {
        let factor = select(sum > 0.0f32, 1.0f32 / sum, f32::new(0.0));
        let at = row_offset::<E>(out, batch, head, query);
        store_row::<E>(out, at, &acc, factor, tile);
        if UNIT_POS_X == 0 {
            let at = value_offset(lse, batch, head, query);
            lse[at] = maximum + sum.ln();
        }
    }
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

/// `sum(out * d_out)` over the last dimension, `[B, H, N]`: what every score gradient of a row is
/// reduced by.
///
/// 16 units share a row, 16 rows a cube. Cube `x` is the group of rows, `y` the head, `z` the batch
/// entry.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn row_products<E: Float>(
    out: &Tensor<E>,
    d_out: &Tensor<E>,
    delta: &mut Tensor<f32>,
    #[comptime] head_dim: usize,
    #[define(E)] _dtype: StorageType,
) {
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let row = CUBE_POS_X * 16 + UNIT_POS_Y;
    let mut parts = SharedMemory::<f32>::new(comptime!(16usize * 17));
    let mut sum = f32::new(0.0);
    if row < out.shape(2) as u32 {
        let a = row_offset::<E>(out, batch, head, row);
        let b = row_offset::<E>(d_out, batch, head, row);
        #[unroll]
        for part in 0..comptime!(head_dim.div_ceil(16)) {
            let column = comptime!(part * 16) + UNIT_POS_X as usize;
            if column < head_dim {
                sum += f32::cast_from(out[a + column * out.stride(3)])
                    * f32::cast_from(d_out[b + column * d_out.stride(3)]);
            }
        }
    }
    parts[UNIT_POS_Y as usize * 17 + UNIT_POS_X as usize] = sum;
    sync_cube();
    if UNIT_POS_X == 0 && row < out.shape(2) as u32 {
        let mut total = f32::new(0.0);
        for i in 0..16usize {
            total += parts[UNIT_POS_Y as usize * 17 + i];
        }
        let at = value_offset(delta, batch, head, row);
        delta[at] = total;
    }
}

/// Gradient of the queries. `delta` is that of [`row_products`], `lse` that of the forward pass.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn backward_queries_plain<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    d_out: &Tensor<E>,
    lse: &Tensor<f32>,
    delta: &Tensor<f32>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    dq: &mut Tensor<E>,
    scale: f32,
    block_q: u32,
    block_k: u32,
    #[comptime] tile: PlainTile,
    #[define(E)] _dtype: StorageType,
) {
    let side = comptime!(tile.side as u32);
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let (first, end) = block_tile(CUBE_POS_X, block_q, q.shape(2) as u32, side);
    let query = first + UNIT_POS_Y;
    let walk = walk(
        indices,
        counts,
        batch,
        head,
        first / block_q,
        block_k,
        k.shape(2) as u32,
        tile.sparse,
    );

    let mut queries = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut gradients = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut rows = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut weights = SharedMemory::<f32>::new(comptime!(tile.side * tile.score_pitch()));
    load_row::<E>(
        q,
        row_offset::<E>(q, batch, head, query),
        query < end,
        &mut queries,
        tile,
    );
    load_row::<E>(
        d_out,
        row_offset::<E>(d_out, batch, head, query),
        query < end,
        &mut gradients,
        tile,
    );
    let mut row_lse = f32::new(0.0);
    let mut row_delta = f32::new(0.0);
    if query < end {
        row_lse = lse[value_offset(lse, batch, head, query)];
        row_delta = delta[value_offset(delta, batch, head, query)];
    }

    let mut acc = zero_share(tile);
    let mine = UNIT_POS_Y as usize * comptime!(tile.score_pitch()) + UNIT_POS_X as usize;
    for step in 0..walk.length.div_ceil(side) {
        let loaded = step * side + UNIT_POS_Y;
        let mut token = 0u32;
        if loaded < walk.length {
            token = token_at(indices, &walk, loaded, tile.sparse);
        }
        let scored = step * side + UNIT_POS_X;
        let mut present = scored < walk.length && query < end;
        if present {
            present = is_real(
                key_valid,
                token_at(indices, &walk, scored, tile.sparse),
                block_k,
                tile.sparse,
            );
        }
        load_row::<E>(
            v,
            row_offset::<E>(v, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        let d_weight = dot(&gradients, &rows, tile);
        sync_cube();
        load_row::<E>(
            k,
            row_offset::<E>(k, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        let mut d_score = f32::new(0.0);
        let score = dot(&queries, &rows, tile) * scale;
        if present {
            d_score = (score - row_lse).exp() * (d_weight - row_delta);
        }
        weights[mine] = d_score;
        sync_cube();
        accumulate(&weights, &rows, &mut acc, tile);
        sync_cube();
    }
    if query < end {
        let at = row_offset::<E>(dq, batch, head, query);
        store_row::<E>(dq, at, &acc, scale, tile);
    }
}

/// Gradients of the keys and values. `indices` `[B, H, Mk, Mq]` and `counts` `[B, H, Mk]` are the
/// transposed list: the query blocks that attend to each key block.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn backward_keys_plain<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    d_out: &Tensor<E>,
    lse: &Tensor<f32>,
    delta: &Tensor<f32>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    dk: &mut Tensor<E>,
    dv: &mut Tensor<E>,
    scale: f32,
    block_q: u32,
    block_k: u32,
    #[comptime] tile: PlainTile,
    #[define(E)] _dtype: StorageType,
) {
    let side = comptime!(tile.side as u32);
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let (first, end) = block_tile(CUBE_POS_X, block_k, k.shape(2) as u32, side);
    let key = first + UNIT_POS_Y;
    let walk = walk(
        indices,
        counts,
        batch,
        head,
        first / block_k,
        block_q,
        q.shape(2) as u32,
        tile.sparse,
    );

    let mut keys = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut values = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut rows = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut weights = SharedMemory::<f32>::new(comptime!(tile.side * tile.score_pitch()));
    load_row::<E>(
        k,
        row_offset::<E>(k, batch, head, key),
        key < end,
        &mut keys,
        tile,
    );
    load_row::<E>(
        v,
        row_offset::<E>(v, batch, head, key),
        key < end,
        &mut values,
        tile,
    );
    let mut real = key < end;
    if real {
        real = is_real(key_valid, key, block_k, tile.sparse);
    }

    let mut acc_k = zero_share(tile);
    let mut acc_v = zero_share(tile);
    let mine = UNIT_POS_Y as usize * comptime!(tile.score_pitch()) + UNIT_POS_X as usize;
    for step in 0..walk.length.div_ceil(side) {
        let loaded = step * side + UNIT_POS_Y;
        let mut token = 0u32;
        if loaded < walk.length {
            token = token_at(indices, &walk, loaded, tile.sparse);
        }
        let scored = step * side + UNIT_POS_X;
        let present = scored < walk.length && real;
        let mut row_lse = f32::new(0.0);
        let mut row_delta = f32::new(0.0);
        if present {
            let query = token_at(indices, &walk, scored, tile.sparse);
            row_lse = lse[value_offset(lse, batch, head, query)];
            row_delta = delta[value_offset(delta, batch, head, query)];
        }
        load_row::<E>(
            q,
            row_offset::<E>(q, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        let score = dot(&keys, &rows, tile) * scale;
        let mut weight = f32::new(0.0);
        if present {
            weight = (score - row_lse).exp();
        }
        weights[mine] = weight;
        sync_cube();
        load_row::<E>(
            d_out,
            row_offset::<E>(d_out, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        let d_weight = dot(&values, &rows, tile);
        accumulate(&weights, &rows, &mut acc_v, tile);
        sync_cube();
        load_row::<E>(
            q,
            row_offset::<E>(q, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        weights[mine] = weight * (d_weight - row_delta);
        sync_cube();
        accumulate(&weights, &rows, &mut acc_k, tile);
        sync_cube();
    }
    if key < end {
        let at = row_offset::<E>(dk, batch, head, key);
        store_row::<E>(dk, at, &acc_k, scale, tile);
        let at = row_offset::<E>(dv, batch, head, key);
        store_row::<E>(dv, at, &acc_v, f32::new(1.0), tile);
    }
}
