//! The pass for the gradients of the keys and values.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::{BackwardTile, add_product, product_with_rows, store_rows};
use crate::cube::attention::lists::*;
use crate::cube::attention::mma::*;
use crate::cube::attention::plain::block_tile;

/// Stands for the log-sum-exp of a row that is not there: its probabilities are zero.
const ABSENT: f32 = 1.0e30;

/// Gradients of the keys and values of a cube.
///
/// `indices` `[B, H, Mk, Mq]` and `counts` `[B, H, Mk]` are the transposed list: the query blocks
/// that attend to each key block. Otherwise as
/// [`backward_queries_mma`](super::backward_queries_mma); `row_tiles` must be 1.
#[cube(launch_unchecked, fast_math = FastMath::all(), address_type = "dynamic")]
pub(in crate::cube::attention) fn backward_keys_mma<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    d_out: &Tensor<E>,
    lse: &Tensor<f32>,
    delta: &Tensor<f32>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    dk: &mut Tensor<Pair<E>>,
    dv: &mut Tensor<Pair<E>>,
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
    let columns = comptime!(tile.width / 8);
    let lane = UNIT_POS_PLANE;
    let warp_rows = (UNIT_POS / 32) * 16;
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let queries = q.shape(2) as u32;
    let (first, end) = block_tile(
        CUBE_POS_X,
        block_k,
        k.shape(2) as u32,
        comptime!(tile.rows() as u32),
    );
    let walk = walk(
        indices,
        counts,
        batch,
        head,
        first / block_k,
        block_q,
        queries,
        tile.sparse,
    );
    let steps = walk.length.div_ceil(comptime!(tile.width as u32));

    let q_base = batch * q.stride(0) + head * q.stride(1);
    let d_base = batch * d_out.stride(0) + head * d_out.stride(1);
    let lse_base = batch * lse.stride(0) + head * lse.stride(1);
    let delta_base = batch * delta.stride(0) + head * delta.stride(1);

    let mut k_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.rows() * padded(tile.head_dim)), 16usize);
    let mut v_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.rows() * padded(tile.head_dim)), 16usize);
    let mut q_tile =
        SharedMemory::<E>::new_aligned(comptime!(2 * tile.width * padded(tile.head_dim)), 16usize);
    let mut d_tile =
        SharedMemory::<E>::new_aligned(comptime!(tile.width * padded(tile.head_dim)), 16usize);
    // Log-sum-exps and row products of the queries of a step, twice.
    let mut statistics = SharedMemory::<f32>::new(comptime!(4 * tile.width));
    let q_even = Barrier::shared(CUBE_DIM, UNIT_POS == 0);
    let q_odd = Barrier::shared(CUBE_DIM, UNIT_POS == 0);
    let d_ready = Barrier::shared(CUBE_DIM, UNIT_POS == 0);

    copy_rows::<E>(
        k,
        batch * k.stride(0) + head * k.stride(1),
        k.stride(2),
        first,
        end - 1,
        &mut k_tile,
        0u32,
        comptime!(tile.rows()),
        head_dim,
        units,
    );
    copy_rows::<E>(
        v,
        batch * v.stride(0) + head * v.stride(1),
        v.stride(2),
        first,
        end - 1,
        &mut v_tile,
        0u32,
        comptime!(tile.rows()),
        head_dim,
        units,
    );
    if steps > 0 {
        let start = token_at(indices, &walk, 0u32.runtime(), tile.sparse);
        copy_rows::<E>(
            q,
            q_base,
            q.stride(2),
            start,
            queries - 1,
            &mut q_tile,
            0u32,
            width,
            head_dim,
            units,
        );
        q_even.commit_copy_async();
        q_even.arrive();
        copy_rows::<E>(
            d_out,
            d_base,
            d_out.stride(2),
            start,
            queries - 1,
            &mut d_tile,
            0u32,
            width,
            head_dim,
            units,
        );
        d_ready.commit_copy_async();
        d_ready.arrive();
        if UNIT_POS < comptime!(tile.width as u32) {
            let row = start + UNIT_POS;
            let at = UNIT_POS as usize;
            statistics[at] = f32::new(ABSENT);
            statistics[at + width] = f32::new(0.0);
            if row < queries {
                statistics[at] = lse[lse_base + row as usize * lse.stride(2)];
                statistics[at + width] = delta[delta_base + row as usize * delta.stride(2)];
            }
        }
    }
    sync_cube();

    let def = cmma::MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let mut acc_k = zeros(comptime!(tile.head_dim / 8));
    let mut acc_v = zeros(comptime!(tile.head_dim / 8));
    for step in 0..steps {
        let q_start = (step % 2) * stage;
        let s_start = ((step % 2) * comptime!(2 * tile.width as u32)) as usize;
        let more = step + 1 < steps;
        // The next step's statistics are fetched now and put down after the barrier below.
        let mut next_start = 0u32;
        let mut next_lse = f32::new(ABSENT);
        let mut next_delta = f32::new(0.0);
        if more {
            next_start = token_at(
                indices,
                &walk,
                (step + 1) * comptime!(tile.width as u32),
                tile.sparse,
            );
            let row = next_start + UNIT_POS;
            if UNIT_POS < comptime!(tile.width as u32) && row < queries {
                next_lse = lse[lse_base + row as usize * lse.stride(2)];
                next_delta = delta[delta_base + row as usize * delta.stride(2)];
            }
        }
        if step % 2 == 0 {
            q_even.wait_parity((step / 2) % 2);
        } else {
            q_odd.wait_parity((step / 2) % 2);
        }
        let mut weights =
            product_with_rows::<E>(&def, &k_tile, warp_rows * pitch, &q_tile, q_start, tile);
        #[unroll]
        for n in 0..columns {
            let at = s_start + comptime!(n * 8) + ((lane % 4) * 2) as usize;
            let mut shift = Pair::<f32>::empty();
            shift[0] = statistics[at];
            shift[1] = statistics[at + 1];
            let pair = weights.index_mut(n);
            #[unroll]
            for half in 0..2usize {
                pair[half] = Pair::exp(pair[half] * Pair::<f32>::new(scale) - shift);
            }
        }
        d_ready.wait_parity(step % 2);
        add_product::<E>(&def, &weights, &d_tile, 0u32.runtime(), &mut acc_v, tile);
        let d_weights = product_with_rows::<E>(
            &def,
            &v_tile,
            warp_rows * pitch,
            &d_tile,
            0u32.runtime(),
            tile,
        );
        sync_cube();
        if more {
            // Before the arrivals below, which publish it.
            if UNIT_POS < comptime!(tile.width as u32) {
                let at = comptime!(2 * tile.width) - s_start + UNIT_POS as usize;
                statistics[at] = next_lse;
                statistics[at + width] = next_delta;
            }
            copy_rows::<E>(
                q,
                q_base,
                q.stride(2),
                next_start,
                queries - 1,
                &mut q_tile,
                stage - q_start,
                width,
                head_dim,
                units,
            );
            if step % 2 == 0 {
                q_odd.commit_copy_async();
                q_odd.arrive();
            } else {
                q_even.commit_copy_async();
                q_even.arrive();
            }
            copy_rows::<E>(
                d_out,
                d_base,
                d_out.stride(2),
                next_start,
                queries - 1,
                &mut d_tile,
                0u32,
                width,
                head_dim,
                units,
            );
            d_ready.commit_copy_async();
            d_ready.arrive();
        }
        #[unroll]
        for n in 0..columns {
            let at = s_start + comptime!(n * 8) + ((lane % 4) * 2) as usize + width;
            let mut shift = Pair::<f32>::empty();
            shift[0] = statistics[at];
            shift[1] = statistics[at + 1];
            let d_pair = d_weights.index(n);
            let pair = weights.index_mut(n);
            #[unroll]
            for half in 0..2usize {
                pair[half] *= d_pair[half] - shift;
            }
        }
        add_product::<E>(&def, &weights, &q_tile, q_start, &mut acc_k, tile);
    }
    let mut real_end = end;
    if comptime!(tile.sparse) {
        let block = first / block_k;
        real_end = end.min(block * block_k + u32::cast_from(key_valid[block as usize]));
    }
    let base = batch * dk.stride(0) + head * dk.stride(1);
    store_rows::<E>(dk, base, first, end, real_end, &acc_k, scale, tile);
    let base = batch * dv.stride(0) + head * dv.stride(1);
    store_rows::<E>(dv, base, first, end, real_end, &acc_v, f32::new(1.0), tile);
}
