//! The plain backward kernels.

use cubecl::prelude::*;

use super::*;
use crate::cube::attention::lists::*;

/// Units of a cube of [`row_products`].
pub(in crate::cube::attention) const ROW_PRODUCT_UNITS: usize = 16 * 16;

/// `sum(out * d_out)` over the last dimension, `[B, H, N]`: what every score gradient of a row is
/// reduced by.
///
/// 16 units share a row, 16 rows a cube. Cube `x` is the group of rows, `y` the head, `z` the batch
/// entry.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(in crate::cube::attention) fn row_products<E: Float>(
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
pub(in crate::cube::attention) fn backward_queries_plain<E: Float>(
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
pub(in crate::cube::attention) fn backward_keys_plain<E: Float>(
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
