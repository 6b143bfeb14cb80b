//! [`KernelBackend`] under Burn's autodiff, with hand-written backward steps.

mod attention;
mod linear;

use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn_backend::tensor::{FloatTensor, IntTensor};

use crate::{BlockList, BlockRule, KernelBackend};

impl<B: KernelBackend, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    const INNER_MULTIPLE: usize = B::INNER_MULTIPLE;

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
