//! Normalisations in fp32, the islands of the official code.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// Epsilon of every normalisation in the transformer.
pub(crate) const EPSILON: f64 = 1e-6;

/// LayerNorm without weights in fp32, then `·(1 + scale) + shift` per frame, back in the dtype of
/// `x`. `x` is `[B, T·S, C]`; `shift` and `scale` are `[B, T, 1, C]` in fp32.
pub(crate) fn norm_modulate<B: Backend>(
    x: Tensor<B, 3>,
    shift: Tensor<B, 4>,
    scale: Tensor<B, 4>,
) -> Tensor<B, 3> {
    let [b, n, c] = x.dims();
    let frames = shift.dims()[1];
    let dtype = x.dtype();
    let x = x.cast(DType::F32).reshape([b, frames, n / frames, c]);
    let x = x.clone() - x.mean_dim(3);
    let variance = x.clone().square().mean_dim(3);
    let x = x / (variance + EPSILON).sqrt();
    (x * (scale + 1.0) + shift).cast(dtype).reshape([b, n, c])
}

/// `x + gate · y` in fp32, back in the dtype of `x`. `gate` is `[B, T, 1, C]` in fp32.
pub(crate) fn gated_residual<B: Backend>(
    x: Tensor<B, 3>,
    y: Tensor<B, 3>,
    gate: Tensor<B, 4>,
) -> Tensor<B, 3> {
    let [b, n, c] = x.dims();
    let frames = gate.dims()[1];
    let dtype = x.dtype();
    let y = y.cast(DType::F32).reshape([b, frames, n / frames, c]) * gate;
    (x.cast(DType::F32) + y.reshape([b, n, c])).cast(dtype)
}
