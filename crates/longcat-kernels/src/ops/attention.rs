//! Tensor-level dense attention.

use burn::tensor::{Tensor, TensorPrimitive};

use crate::{BlockList, KernelBackend};

/// `softmax(q · kᵀ * scale) · v`, without ever holding all scores.
///
/// `q` is `[B, H, Nq, D]`, `k` and `v` are `[B, H, Nk, D]`, of one float dtype, which is also that of
/// the result `[B, H, Nq, D]`. Sums are accumulated in f32. Differentiable in `q`, `k` and `v`.
///
/// # Panics
/// If the shapes do not fit, naming them.
pub fn attention<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    scale: f64,
) -> Tensor<B, 4> {
    attention_with_lse(q, k, v, scale).0
}

/// [`attention`], and the natural log-sum-exp of the scaled scores, `[B, H, Nq]` in f32, which is a
/// constant to autodiff.
///
/// # Panics
/// If the shapes do not fit, naming them.
pub fn attention_with_lse<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    scale: f64,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    block_attention(q, k, v, None, scale)
}

/// Attention over all keys, or over the blocks of a list.
pub(crate) fn block_attention<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    blocks: Option<BlockList<B>>,
    scale: f64,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let ([b, h, _, d], keys) = (q.dims(), k.dims());
    assert!(
        keys == v.dims() && [keys[0], keys[1], keys[3]] == [b, h, d] && keys[2] > 0,
        "attention: queries {:?}, keys {keys:?} and values {:?} must agree in all but the tokens, \
         keys and values in those too, and there must be keys",
        q.dims(),
        v.dims(),
    );
    let (out, lse) = B::attention_forward(
        q.into_primitive().tensor(),
        k.into_primitive().tensor(),
        v.into_primitive().tensor(),
        blocks,
        scale,
    );
    (
        Tensor::from_primitive(TensorPrimitive::Float(out)),
        Tensor::from_primitive(TensorPrimitive::Float(lse)),
    )
}
