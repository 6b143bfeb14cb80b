//! What lies between norms and products, with gradients of the tracked inputs.

use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::register;
use crate::{KernelBackend, portable};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

#[derive(Debug)]
struct GatedResidualBackward;

impl<B: KernelBackend> Backward<B, 3> for GatedResidualBackward {
    /// The gate, and `y` if the gate is tracked.
    type State = (FloatTensor<B>, Option<NodeId>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let (gate, y) = ops.state;
        let [d_x, d_y, d_gate] = ops.parents;
        if let (Some(node), Some(y)) = (d_gate, y) {
            let y: FloatTensor<B> = checkpointer.retrieve_node_output(y);
            let groups = gate.shape()[0];
            let sums = portable::product_sums::<B>(d_out.clone(), y, groups);
            grads.register::<B>(node.id, sums);
        }
        if let Some(node) = d_y {
            let d_y = B::gated(d_out.clone(), gate);
            grads.register::<B>(node.id, d_y);
        }
        if let Some(node) = d_x {
            grads.register::<B>(node.id, d_out);
        }
    }
}

pub(super) fn gated_residual<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    y: Tracked<B, C>,
    gate: Tracked<B, C>,
) -> Tracked<B, C> {
    let nodes = [x.node.clone(), y.node.clone(), gate.node.clone()];
    let step = GatedResidualBackward.prepare::<C>(nodes);
    match step.compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let kept = gate.is_tracked().then(|| prep.checkpoint(&y));
            let state = (gate.primitive.clone(), kept);
            let out = B::gated_residual(x.primitive, y.primitive, gate.primitive);
            prep.finish(state, out)
        }
        OpsKind::UnTracked(prep) => {
            prep.finish(B::gated_residual(x.primitive, y.primitive, gate.primitive))
        }
    }
}

#[derive(Debug)]
struct SiluMulBackward;

impl<B: KernelBackend> Backward<B, 2> for SiluMulBackward {
    type State = [NodeId; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let [a, b] = ops
            .state
            .map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let (d_a, d_b) = B::silu_mul_backward(a, b, d_out);
        register::<B, _, 2>(grads, ops, [Some(d_a), Some(d_b)]);
    }
}

pub(super) fn silu_mul<B: KernelBackend, C: CheckpointStrategy>(
    a: Tracked<B, C>,
    b: Tracked<B, C>,
) -> Tracked<B, C> {
    match SiluMulBackward
        .prepare::<C>([a.node.clone(), b.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let state = [&a, &b].map(|x| prep.checkpoint(x));
            prep.finish(state, B::silu_mul(a.primitive, b.primitive))
        }
        OpsKind::UnTracked(prep) => prep.finish(B::silu_mul(a.primitive, b.primitive)),
    }
}
