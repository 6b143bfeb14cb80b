//! Backward of dense attention on the CPU: heads in parallel, weights recomputed tile by tile from
//! the log-sum-exp (formulas in `portable::attention_backward`).

use std::f32::consts::LOG2_E;

use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::attention::{Matrix, TILE_K, TILE_Q, product};
use super::exp2::sub_exp2;
use super::rows::{dot, like};

/// What the forward pass took and gave, contiguous f32.
pub(super) struct Forward {
    pub q: FlexTensor,
    pub k: FlexTensor,
    pub v: FlexTensor,
    pub out: FlexTensor,
    pub lse: FlexTensor,
}

/// Gradients of `q`, `k` and `v` for that of the output.
pub(super) fn attention_backward(
    forward: &Forward,
    d_out: &FlexTensor,
    scale: f32,
) -> [FlexTensor; 3] {
    let [_, _, nq, d] = forward.q.shape().dims();
    let [_, _, nk, d_v] = forward.v.shape().dims();
    let [q, k, v] = [&forward.q, &forward.k, &forward.v].map(|x| x.storage::<f32>());
    let [out, lse, d_out] = [&forward.out, &forward.lse, d_out].map(|x| x.storage::<f32>());
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0.0; x.len()]);
    let gradients = dk.par_chunks_mut((nk * d).max(1));
    let gradients = gradients.zip(dv.par_chunks_mut((nk * d_v).max(1)));
    let gradients = gradients.zip(dq.par_chunks_mut((nq * d).max(1)));
    gradients.enumerate().for_each(|(head, ((dk, dv), dq))| {
        let k = &k[head * nk * d..][..nk * d];
        let v = &v[head * nk * d_v..][..nk * d_v];
        let mut weights = vec![0.0; TILE_Q.min(nq) * TILE_K.min(nk)];
        let mut slopes = weights.clone();
        for (tile, dq) in dq.chunks_mut(TILE_Q * d).enumerate() {
            let rows = dq.len() / d;
            let first = head * nq + tile * TILE_Q;
            let q = &q[first * d..][..rows * d];
            let d_out = &d_out[first * d_v..][..rows * d_v];
            let out = &out[first * d_v..][..rows * d_v];
            let lse = &lse[first..][..rows];
            let deltas: Vec<f32> = (d_out.chunks_exact(d_v).zip(out.chunks_exact(d_v)))
                .map(|(d_out, out)| dot(d_out, out, |out| out))
                .collect();
            let keys = k.chunks(TILE_K * d).zip(v.chunks(TILE_K * d_v));
            let gradients = dk.chunks_mut(TILE_K * d).zip(dv.chunks_mut(TILE_K * d_v));
            for ((k, v), (dk, dv)) in keys.zip(gradients) {
                let keys = k.len() / d;
                let p = &mut weights[..rows * keys];
                let ds = &mut slopes[..rows * keys];
                let (k_rows, k_columns) = (Matrix::rows(k, d), Matrix::columns(k, d));
                product(p, Matrix::rows(q, d), k_columns, scale * LOG2_E, false);
                for (row, lse) in p.chunks_exact_mut(keys).zip(lse) {
                    sub_exp2(row, lse * LOG2_E);
                }
                let d_out = || Matrix::rows(d_out, d_v);
                product(dv, Matrix::columns(p, keys), d_out(), 1.0, true);
                product(ds, d_out(), Matrix::columns(v, d_v), 1.0, false);
                let rows = ds.chunks_exact_mut(keys).zip(p.chunks_exact(keys));
                for ((ds, p), delta) in rows.zip(&deltas) {
                    for (ds, p) in ds.iter_mut().zip(p) {
                        *ds = p * (*ds - delta);
                    }
                }
                product(dq, Matrix::rows(ds, keys), k_rows, scale, true);
                product(
                    dk,
                    Matrix::columns(ds, keys),
                    Matrix::rows(q, d),
                    scale,
                    true,
                );
            }
        }
    });
    let [q, k, v] = [&forward.q, &forward.k, &forward.v];
    [like(q, dq), like(k, dk), like(v, dv)]
}
