//! Attention as one autodiff step: nothing of the size of the scores is kept.

use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::tensor::FloatTensor;

use super::{Tracked, constant, inner};
use crate::{BlockList, KernelBackend};

#[derive(Debug)]
struct AttentionBackward;

#[derive(Debug, Clone)]
struct State<B: KernelBackend> {
    /// Queries, keys, values.
    inputs: [NodeId; 3],
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    blocks: Option<BlockList<B>>,
    scale: f64,
}

impl<B: KernelBackend> Backward<B, 3> for AttentionBackward {
    type State = State<B>;

    fn backward(
        self,
        ops: Ops<State<B>, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let state = ops.state;
        let [q, k, v] = state
            .inputs
            .map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let (dq, dk, dv) = B::attention_backward(
            q,
            k,
            v,
            state.out,
            state.lse,
            d_out,
            state.blocks,
            state.scale,
        );
        for (node, value) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, value);
            }
        }
    }
}

pub(super) fn attention_forward<B: KernelBackend, C: CheckpointStrategy>(
    q: Tracked<B, C>,
    k: Tracked<B, C>,
    v: Tracked<B, C>,
    blocks: Option<BlockList<Autodiff<B, C>>>,
    scale: f64,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let blocks = blocks.map(inner);
    match AttentionBackward
        .prepare::<C>([q.node.clone(), k.node.clone(), v.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let inputs = [&q, &k, &v].map(|x| prep.checkpoint(x));
            let (out, lse) =
                B::attention_forward(q.primitive, k.primitive, v.primitive, blocks.clone(), scale);
            let state = State {
                inputs,
                out: out.clone(),
                lse: lse.clone(),
                blocks,
                scale,
            };
            (prep.finish(state, out), constant::<B, C>(lse))
        }
        OpsKind::UnTracked(prep) => {
            let (out, lse) =
                B::attention_forward(q.primitive, k.primitive, v.primitive, blocks, scale);
            (prep.finish(out), constant::<B, C>(lse))
        }
    }
}
