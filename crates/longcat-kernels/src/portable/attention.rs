//! Portable forward attention: tiles of queries against all keys, or against listed blocks.

use burn::tensor::Tensor;
use burn_backend::tensor::FloatTensor;

use super::{
    TILE_BYTES, accumulator, from_float,
    gather::{BlockRows, Tile},
    into_float, matmul, to_dtype,
};
use crate::{BlockList, KernelBackend, matmul_nt};

/// See [`KernelBackend::attention_forward`](crate::KernelBackend::attention_forward).
pub fn attention_forward<B: KernelBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    blocks: Option<BlockList<B>>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let q: Tensor<B, 4> = from_float(q);
    let dtype = q.dtype();
    let acc = accumulator(dtype);
    let q = to_dtype(q, acc);
    let k = to_dtype(from_float(k), acc);
    let v = to_dtype(from_float(v), acc);
    let (out, lse) = match blocks {
        None => dense(q, k, v, scale),
        Some(blocks) => sparse(q, k, v, &blocks, scale),
    };
    (
        into_float(to_dtype(out, dtype)),
        into_float(to_dtype(lse, burn::tensor::DType::F32)),
    )
}

/// Queries in a tile of dense attention whose scores and their two temporaries fit the budget.
pub(super) fn dense_tile(batch_heads: usize, queries: usize, keys: usize) -> usize {
    (TILE_BYTES / (batch_heads * keys * 12).max(1)).clamp(1, queries.max(1))
}

fn dense<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    scale: f64,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let [b, h, nq, _] = q.dims();
    let tile = dense_tile(b * h, nq, k.dims()[2]);
    let v_t = v.swap_dims(2, 3);
    let (mut outs, mut lses) = (Vec::new(), Vec::<Tensor<B, 3>>::new());
    for start in (0..nq).step_by(tile) {
        let len = tile.min(nq - start);
        let scores = matmul_nt(q.clone().narrow(2, start, len), k.clone());
        let (weights, lse) = B::softmax_with_lse(into_float(scores), scale);
        outs.push(matmul_nt(from_float(weights), v_t.clone()));
        lses.push(from_float(lse));
    }
    (Tensor::cat(outs, 2), Tensor::cat(lses, 2))
}

fn sparse<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    blocks: &BlockList<B>,
    scale: f64,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let [b, h, nq, d] = q.dims();
    let d_v = v.dims()[3];
    let rows = BlockRows::new(blocks, k.dims());
    let (q, k, v) = (rows.queries(q), rows.keys(k), rows.keys(v));
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for tile in rows.tiles(d) {
        let Tile {
            start, len, hidden, ..
        } = &tile;
        let k_tile = tile.gather(k.clone());
        let v_tile = tile.gather(v.clone());
        let q = q.clone().narrow(0, *start, *len);
        let scores = matmul(q, k_tile.swap_dims(1, 2)) * scale;
        let scores = scores.mask_fill(hidden.clone(), f32::MIN);
        let max = scores.clone().max_dim(2);
        let weights = (scores - max.clone()).exp().mask_fill(hidden.clone(), 0.0);
        let sum = weights.clone().sum_dim(2);
        // A row with nothing selected has a sum of 0: its output stays 0.
        let empty = sum.clone().equal_elem(0.0);
        outs.push(matmul(weights, v_tile) / sum.clone().mask_fill(empty.clone(), 1.0));
        lses.push((max + sum.log()).mask_fill(empty, f32::NEG_INFINITY));
    }
    (
        Tensor::cat(outs, 0).reshape([b, h, nq, d_v]),
        Tensor::cat(lses, 0).reshape([b, h, nq]),
    )
}
