//! Tensor-level dense attention.

use std::fmt;

use burn::tensor::{Tensor, TensorPrimitive, backend::Backend};

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

/// In which numbers attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AttentionNumbers {
    /// In those of queries, keys and values.
    #[default]
    Floats,
    /// In eight bits where a device has kernels for it and they take the call (Hopper, heads of 128 channels
    /// in bf16 or f16, at least 1024 keys), else in floats. Scores are products of int8 queries and keys,
    /// whose mean is taken off and which are rotated so that no channel stands out; results are products of
    /// probabilities and values in e4m3, summed in f32. Without gradients: autodiff computes in floats. After
    /// SageAttention 1 and 2 (arXiv:2410.02367, arXiv:2411.10958) and FlashAttention-3 (arXiv:2407.08608).
    Fp8,
}

impl fmt::Display for AttentionNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floats => "floats",
            Self::Fp8 => "fp8",
        })
    }
}

/// [`attention`] in other numbers.
///
/// # Panics
/// As there.
pub fn attention_in<B: KernelBackend>(
    numbers: AttentionNumbers,
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    scale: f64,
) -> Tensor<B, 4> {
    block_attention_in(numbers, q, k, v, None, scale)
}

/// The output of attention over all keys, or over the blocks of a list, in other numbers.
pub(crate) fn block_attention_in<B: KernelBackend>(
    numbers: AttentionNumbers,
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    blocks: Option<BlockList<B>>,
    scale: f64,
) -> Tensor<B, 4> {
    if numbers == AttentionNumbers::Floats {
        return block_attention(q, k, v, blocks, scale).0;
    }
    check(&q, &k, &v);
    let [q, k, v] = [q, k, v].map(|x| x.into_primitive().tensor());
    let out = B::attention_eight_bit(q, k, v, blocks, scale);
    Tensor::from_primitive(TensorPrimitive::Float(out))
}

/// Attention over all keys, or over the blocks of a list.
pub(crate) fn block_attention<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    blocks: Option<BlockList<B>>,
    scale: f64,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    check(&q, &k, &v);
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

/// Whether the shapes fit.
fn check<B: Backend>(q: &Tensor<B, 4>, k: &Tensor<B, 4>, v: &Tensor<B, 4>) {
    let ([b, h, _, d], keys) = (q.dims(), k.dims());
    assert!(
        keys == v.dims() && [keys[0], keys[1], keys[3]] == [b, h, d] && keys[2] > 0,
        "attention: queries {:?}, keys {keys:?} and values {:?} must agree in all but the tokens, \
         keys and values in those too, and there must be keys",
        q.dims(),
        v.dims(),
    );
}
