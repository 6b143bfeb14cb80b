//! The norms, with gradients of input and tables; those of the tables only where they are tracked.

use burn_autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::{Tracked, register, step};
use crate::KernelBackend;
use crate::portable::{from_float, group_sums, into_float, product_sums};

#[derive(Debug)]
struct LayerNormBackward;

#[derive(Debug, Clone)]
struct LayerNormState<B: KernelBackend> {
    x: NodeId,
    weight: FloatTensor<B>,
    epsilon: f64,
}

impl<B: KernelBackend> Backward<B, 3> for LayerNormBackward {
    type State = LayerNormState<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let LayerNormState { x, weight, epsilon } = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let [d_x, d_weight, d_bias] = ops.parents;
        let groups = weight.shape()[0];
        if let Some(node) = d_weight {
            let ones = from_float::<B, 2>(weight.clone()).ones_like();
            let zeros = into_float(ones.zeros_like());
            let normed = B::layer_norm_forward(x.clone(), into_float(ones), zeros, epsilon);
            let sums = product_sums::<B>(d_out.clone(), normed, groups);
            grads.register::<B>(node.id, sums);
        }
        if let Some(node) = d_bias {
            grads.register::<B>(node.id, group_sums::<B>(d_out.clone(), groups));
        }
        if let Some(node) = d_x {
            let d_x = B::layer_norm_x_backward(x, weight, d_out, epsilon);
            grads.register::<B>(node.id, d_x);
        }
    }
}

pub(super) fn layer_norm_forward<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    bias: Tracked<B, C>,
    epsilon: f64,
) -> Tracked<B, C> {
    step!(
        LayerNormBackward,
        [x, weight, bias],
        |prep| LayerNormState {
            x: prep.checkpoint(&x),
            weight: weight.primitive.clone(),
            epsilon,
        },
        B::layer_norm_forward(x.primitive, weight.primitive, bias.primitive, epsilon)
    )
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: KernelBackend> Backward<B, 2> for RmsNormBackward {
    /// Input and weight, and whether SiLU follows.
    type State = (NodeId, NodeId, bool);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let (x, weight, silu) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        let (dx, d_weight) = B::rms_norm_backward(x, weight, d_out, silu);
        register::<B, _, 2>(grads, ops, [Some(dx), Some(d_weight)]);
    }
}

pub(super) fn rms_norm_forward<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    silu: bool,
) -> Tracked<B, C> {
    step!(
        RmsNormBackward,
        [x, weight],
        |prep| (prep.checkpoint(&x), prep.checkpoint(&weight), silu),
        B::rms_norm_forward(x.primitive, weight.primitive, silu)
    )
}
