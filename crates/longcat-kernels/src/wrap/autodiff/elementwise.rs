//! Gated residuals and gated units, with gradients of the tracked inputs.

use burn_autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::{Tracked, register, step};
use crate::{KernelBackend, portable};

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
            let d_y = B::gated_residual_y_backward(d_out.clone(), gate);
            grads.register::<B>(node.id, d_y);
        }
        if let Some(node) = d_x {
            grads.register::<B>(node.id, d_out);
        }
    }
}

pub(super) fn gated_residual_forward<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    y: Tracked<B, C>,
    gate: Tracked<B, C>,
) -> Tracked<B, C> {
    step!(
        GatedResidualBackward,
        [x, y, gate],
        |prep| {
            let kept = gate.is_tracked().then(|| prep.checkpoint(&y));
            (gate.primitive.clone(), kept)
        },
        B::gated_residual_forward(x.primitive, y.primitive, gate.primitive)
    )
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

pub(super) fn silu_mul_forward<B: KernelBackend, C: CheckpointStrategy>(
    a: Tracked<B, C>,
    b: Tracked<B, C>,
) -> Tracked<B, C> {
    step!(
        SiluMulBackward,
        [a, b],
        |prep| [&a, &b].map(|x| prep.checkpoint(x)),
        B::silu_mul_forward(a.primitive, b.primitive)
    )
}
