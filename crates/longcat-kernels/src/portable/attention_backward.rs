//! Portable attention backward: weights are recomputed from the log-sum-exp, tile by tile.
//!
//! With `p = exp(scale * q·kᵀ - lse)` and `delta = Σ d_out · out` per query:
//! `dv = pᵀ·d_out`, `ds = p * (d_out·vᵀ - delta)`, `dq = scale * ds·k`, `dk = scale * dsᵀ·q`.

use burn::tensor::{DType, Tensor, backend::Backend};
use burn_backend::tensor::FloatTensor;

use super::{
    accumulator, attention::dense_tile, from_float, gather::BlockRows, into_float, matmul, to_dtype,
};
use crate::{BlockList, KernelBackend};

/// The forward pass in the accumulator's dtype.
struct Pass<B: Backend> {
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    d_out: Tensor<B, 4>,
    /// `[B, H, Nq, 1]`, zero where nothing was selected.
    lse: Tensor<B, 4>,
    /// `[B, H, Nq, 1]`.
    delta: Tensor<B, 4>,
    scale: f64,
}

type Gradients<B> = (Tensor<B, 4>, Tensor<B, 4>, Tensor<B, 4>);

/// See [`KernelBackend::attention_backward`](crate::KernelBackend::attention_backward).
#[allow(clippy::too_many_arguments)]
pub fn attention_backward<B: KernelBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    d_out: FloatTensor<B>,
    blocks: Option<BlockList<B>>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let q: Tensor<B, 4> = from_float(q);
    let dtype = q.dtype();
    let acc = accumulator(dtype);
    let cast = |x: FloatTensor<B>| -> Tensor<B, 4> { to_dtype(from_float(x), acc) };
    let d_out = cast(d_out);
    let lse: Tensor<B, 3> = to_dtype(from_float(lse), acc);
    // Nothing selected: the weights are masked to 0 below, and 0 here keeps infinities out.
    let lse = lse.clone().mask_fill(lse.lower_equal_elem(f32::MIN), 0.0);
    let pass = Pass {
        delta: (d_out.clone() * cast(out)).sum_dim(3),
        q: to_dtype(q, acc),
        k: cast(k),
        v: cast(v),
        d_out,
        lse: lse.unsqueeze_dim(3),
        scale,
    };
    let (dq, dk, dv) = match blocks {
        None => dense(pass),
        Some(blocks) => sparse(pass, &blocks),
    };
    let finish = |x: Tensor<B, 4>, dtype: DType| into_float(to_dtype(x, dtype));
    (finish(dq, dtype), finish(dk, dtype), finish(dv, dtype))
}

fn dense<B: KernelBackend>(pass: Pass<B>) -> Gradients<B> {
    let [b, h, nq, _] = pass.q.dims();
    let k_t = pass.k.clone().swap_dims(2, 3);
    let v_t = pass.v.clone().swap_dims(2, 3);
    let tile = dense_tile(b * h, nq, pass.k.dims()[2]);
    let mut dqs = Vec::new();
    let (mut dk, mut dv) = (pass.k.zeros_like(), pass.v.zeros_like());
    for start in (0..nq).step_by(tile) {
        let len = tile.min(nq - start);
        let part = |x: &Tensor<B, 4>| x.clone().narrow(2, start, len);
        let (q, d_out) = (part(&pass.q), part(&pass.d_out));
        let p = (matmul(q.clone(), k_t.clone()) * pass.scale - part(&pass.lse)).exp();
        dv = dv + matmul(p.clone().swap_dims(2, 3), d_out.clone());
        let ds = p * (matmul(d_out, v_t.clone()) - part(&pass.delta)) * pass.scale;
        dk = dk + matmul(ds.clone().swap_dims(2, 3), q);
        dqs.push(matmul(ds, pass.k.clone()));
    }
    (Tensor::cat(dqs, 2), dk, dv)
}

fn sparse<B: KernelBackend>(pass: Pass<B>, blocks: &BlockList<B>) -> Gradients<B> {
    let (q_dims, k_dims, v_dims) = (pass.q.dims(), pass.k.dims(), pass.v.dims());
    let rows = BlockRows::new(blocks, k_dims);
    let (k, v) = (rows.keys(pass.k), rows.keys(pass.v));
    let [q, d_out, lse, delta] =
        [pass.q, pass.d_out, pass.lse, pass.delta].map(|x| rows.queries(x));
    let mut dqs = Vec::new();
    let (mut dk, mut dv) = (k.zeros_like(), v.zeros_like());
    for tile in rows.tiles(q_dims[3]) {
        let part = |x: &Tensor<B, 3>| x.clone().narrow(0, tile.start, tile.len);
        let (q, d_out) = (part(&q), part(&d_out));
        let k_tile = tile.gather(k.clone());
        let v_tile = tile.gather(v.clone());
        let scores = matmul(q.clone(), k_tile.clone().swap_dims(1, 2)) * pass.scale;
        let p = (scores - part(&lse))
            .exp()
            .mask_fill(tile.hidden.clone(), 0.0);
        dv = tile.scatter_add(dv, matmul(p.clone().swap_dims(1, 2), d_out.clone()));
        let ds = p * (matmul(d_out, v_tile.swap_dims(1, 2)) - part(&delta)) * pass.scale;
        dk = tile.scatter_add(dk, matmul(ds.clone().swap_dims(1, 2), q));
        dqs.push(matmul(ds, k_tile));
    }
    (
        Tensor::cat(dqs, 0).reshape(q_dims),
        dk.reshape(k_dims),
        dv.reshape(v_dims),
    )
}
