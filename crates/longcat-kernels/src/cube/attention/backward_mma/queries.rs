//! The pass for the gradient of the queries.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::{BackwardTile, add_product, product_with_rows, store_rows};
use crate::cube::attention::lists::*;
use crate::cube::attention::mma::*;
use crate::cube::attention::plain::block_tile;

/// Gradient of the queries of a cube.
///
/// Tensors as in [`forward_mma`](crate::cube::attention::forward_mma::forward_mma); `d_out` like
/// `out`, `lse` and `delta` `[B, H, Nq]`, `dq` in pairs. Cube `x` is the query tile, `y` the head, `z`
/// the batch entry.
#[cube(launch_unchecked, fast_math = FastMath::all(), address_type = "dynamic")]
pub(in crate::cube::attention) fn backward_queries_mma<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    d_out: &Tensor<E>,
    lse: &Tensor<f32>,
    delta: &Tensor<f32>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    dq: &mut Tensor<Pair<E>>,
    scale: f32,
    block_q: u32,
    block_k: u32,
    #[comptime] tile: BackwardTile,
    #[define(E)] _dtype: StorageType,
) {
    let pitch = comptime!(padded(tile.head_dim) as u32);
    let head_dim = comptime!(tile.head_dim);
    let units = comptime!(tile.units());
    let width = comptime!(tile.width);
    let stage = comptime!((tile.width * padded(tile.head_dim)) as u32);
    let row_tiles = comptime!(tile.row_tiles);
    let columns = comptime!(tile.width / 8);
    let lane = UNIT_POS_PLANE;
    let warp_rows = (UNIT_POS / 32) * comptime!((row_tiles * 16) as u32);
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let keys = k.shape(2) as u32;
    let (first, end) = block_tile(
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
        first / block_q,
        block_k,
        keys,
        tile.sparse,
    );
    let steps = walk.length.div_ceil(comptime!(tile.width as u32));

    let k_base = batch * k.stride(0) + head * k.stride(1);
    let v_base = batch * v.stride(0) + head * v.stride(1);

    let mut q_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.rows() * padded(tile.head_dim)), 16usize);
    let mut d_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.rows() * padded(tile.head_dim)), 16usize);
    let mut k_tile =
        SharedMemory::<E>::new_aligned(comptime!(2 * tile.width * padded(tile.head_dim)), 16usize);
    let mut v_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.width * padded(tile.head_dim)), 16usize);
    let k_even = Barrier::shared(CUBE_DIM, UNIT_POS == 0);
    let k_odd = Barrier::shared(CUBE_DIM, UNIT_POS == 0);
    let v_ready = Barrier::shared(CUBE_DIM, UNIT_POS == 0);

    copy_rows::<E>(
        q,
        batch * q.stride(0) + head * q.stride(1),
        q.stride(2),
        first,
        end - 1,
        &mut q_tile,
        0u32,
        comptime!(tile.rows()),
        head_dim,
        units,
    );
    copy_rows::<E>(
        d_out,
        batch * d_out.stride(0) + head * d_out.stride(1),
        d_out.stride(2),
        first,
        end - 1,
        &mut d_tile,
        0u32,
        comptime!(tile.rows()),
        head_dim,
        units,
    );
    let mut real = 0u32;
    if steps > 0 {
        let (start, count) = key_step(
            indices,
            key_valid,
            &walk,
            0u32.runtime(),
            width,
            tile.sparse,
        );
        real = count;
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
        k_even.commit_copy_async();
        k_even.arrive();
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

    // Two rows per row tile.
    let mut row_lse = Array::<f32>::new(comptime!(2 * row_tiles));
    let mut row_delta = Array::<f32>::new(comptime!(2 * row_tiles));
    #[unroll]
    for i in 0..comptime!(2 * row_tiles) {
        let row = (first + warp_rows + comptime!((i * 8) as u32) + lane / 4).min(end - 1) as usize;
        row_lse[i] = lse[batch * lse.stride(0) + head * lse.stride(1) + row * lse.stride(2)];
        row_delta[i] =
            delta[batch * delta.stride(0) + head * delta.stride(1) + row * delta.stride(2)];
    }

    let def = cmma::MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let mut acc = zeros(comptime!(tile.row_tiles * tile.head_dim / 8));
    for step in 0..steps {
        let k_start = (step % 2) * stage;
        if step % 2 == 0 {
            k_even.wait_parity((step / 2) % 2);
        } else {
            k_odd.wait_parity((step / 2) % 2);
        }
        let mut weights =
            product_with_rows::<E>(&def, &q_tile, warp_rows * pitch, &k_tile, k_start, tile);
        v_ready.wait_parity(step % 2);
        let d_weights = product_with_rows::<E>(
            &def,
            &d_tile,
            warp_rows * pitch,
            &v_tile,
            0u32.runtime(),
            tile,
        );
        sync_cube();
        let valid = real;
        if step + 1 < steps {
            let (start, count) = key_step(indices, key_valid, &walk, step + 1, width, tile.sparse);
            real = count;
            copy_rows::<E>(
                k,
                k_base,
                k.stride(2),
                start,
                keys - 1,
                &mut k_tile,
                stage - k_start,
                width,
                head_dim,
                units,
            );
            if step % 2 == 0 {
                k_odd.commit_copy_async();
                k_odd.arrive();
            } else {
                k_even.commit_copy_async();
                k_even.arrive();
            }
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
        if valid < comptime!(tile.width as u32) {
            #[unroll]
            for n in 0..columns {
                let column = comptime!((n * 8) as u32) + (lane % 4) * 2;
                #[unroll]
                for m in 0..row_tiles {
                    mask_pair(weights.index_mut(comptime!(m * columns + n)), column, valid);
                }
            }
        }
        #[unroll]
        for m in 0..row_tiles {
            #[unroll]
            for n in 0..columns {
                let d_pair = d_weights.index(comptime!(m * columns + n));
                let pair = weights.index_mut(comptime!(m * columns + n));
                #[unroll]
                for half in 0..2usize {
                    let i = comptime!(2 * m + half);
                    let p = Pair::exp(
                        pair[half] * Pair::<f32>::new(scale) - Pair::<f32>::new(row_lse[i]),
                    );
                    pair[half] = p * (d_pair[half] - Pair::<f32>::new(row_delta[i]));
                }
            }
        }
        add_product::<E>(&def, &weights, &k_tile, k_start, &mut acc, tile);
    }
    let base = batch * dq.stride(0) + head * dq.stride(1);
    store_rows::<E>(dq, base, first, end, end, &acc, scale, tile);
}
