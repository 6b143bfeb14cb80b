//! [`KernelBackend`] under Burn's autodiff, with hand-written backward steps.

mod attention;
mod conv;
mod fused;
mod heads;
mod linear;
mod norm;

use burn::tensor::{DType, Tensor};
use burn_autodiff::{
    Autodiff, checkpoint::strategy::CheckpointStrategy, grads::Gradients, ops::Ops,
};
use burn_backend::TensorMetadata;
use burn_backend::tensor::{FloatTensor, IntTensor};

use crate::portable::{from_float, into_float, to_dtype};
use crate::{BlockList, BlockRule, Conv3dOptions, KernelBackend, portable};

impl<B: KernelBackend, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    const INNER_MULTIPLE: usize = B::INNER_MULTIPLE;

    fn patch_bytes(device: &Self::Device) -> usize {
        B::patch_bytes(device)
    }

    fn order_transfers(device: &Self::Device) {
        B::order_transfers(device);
    }

    fn float_from_bytes(bytes: &[u8], dtype: DType, device: &Self::Device) -> FloatTensor<Self> {
        constant::<B, C>(B::float_from_bytes(bytes, dtype, device))
    }

    fn conv3d_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        conv::conv3d::<B, C>(x, weight, bias, options)
    }

    fn block_sums(x: FloatTensor<Self>, block: usize) -> FloatTensor<Self> {
        constant::<B, C>(B::block_sums(x.primitive, block))
    }

    /// Differentiable, unlike those of other backends.
    fn softmax_with_lse(
        scores: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if scores.is_tracked() {
            return portable::softmax_with_lse::<Self>(scores, scale);
        }
        let (weights, lse) = B::softmax_with_lse(scores.primitive, scale);
        (constant::<B, C>(weights), constant::<B, C>(lse))
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, silu: bool) -> FloatTensor<Self> {
        norm::rms_norm::<B, C>(x, weight, silu)
    }

    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        linear::linear::<B, C>(x, weight, bias)
    }

    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        attention::forward::<B, C>(q, k, v, blocks.map(inner), scale)
    }

    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (dq, dk, dv) = B::attention_backward(
            q.primitive,
            k.primitive,
            v.primitive,
            out.primitive,
            lse.primitive,
            d_out.primitive,
            blocks.map(inner),
            scale,
        );
        (
            constant::<B, C>(dq),
            constant::<B, C>(dk),
            constant::<B, C>(dv),
        )
    }

    fn select_blocks(
        scores: FloatTensor<Self>,
        rule: BlockRule,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        B::select_blocks(scores.primitive, rule)
    }

    fn matmul_nt(q: FloatTensor<Self>, k: FloatTensor<Self>) -> FloatTensor<Self> {
        if q.is_tracked() || k.is_tracked() {
            return portable::matmul_nt::<Self>(q, k);
        }
        constant::<B, C>(B::matmul_nt(q.primitive, k.primitive))
    }

    fn grouped_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        norm::layer_norm::<B, C>(x, weight, bias, epsilon)
    }

    fn gated_residual(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        fused::gated_residual::<B, C>(x, y, gate)
    }

    fn silu_mul(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        fused::silu_mul::<B, C>(a, b)
    }

    fn split_heads(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
    ) -> FloatTensor<Self> {
        heads::split_heads::<B, C>(x, part, norm, rotation)
    }
}

/// Hands gradients to the parents that are tracked.
fn register<B: KernelBackend, S, const N: usize>(
    grads: &mut Gradients,
    ops: Ops<S, N>,
    values: [Option<FloatTensor<B>>; N],
) {
    for (node, value) in ops.parents.into_iter().zip(values) {
        if let (Some(node), Some(value)) = (node, value) {
            grads.register::<B>(node.id, value);
        }
    }
}

/// The gradient of a bias `[C]` that was added to `[.., C]`, in the dtype of `d_out`.
fn d_bias<B: KernelBackend>(d_out: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = d_out.dtype();
    let sums: Tensor<B, 1> = from_float(B::column_sums(d_out));
    into_float(to_dtype(sums, dtype))
}

/// A tensor that autodiff does not track.
fn constant<B: KernelBackend, C: CheckpointStrategy>(
    tensor: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    <Autodiff<B, C> as burn::tensor::backend::AutodiffBackend>::from_inner(tensor)
}

/// The same list: autodiff has the integer tensors of its inner backend.
fn inner<B: KernelBackend, C: CheckpointStrategy>(list: BlockList<Autodiff<B, C>>) -> BlockList<B> {
    BlockList {
        indices: list.indices,
        counts: list.counts,
        key_valid: list.key_valid,
        block_q: list.block_q,
        block_k: list.block_k,
    }
}
