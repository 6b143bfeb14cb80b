//! Convolution with gradients for tracked inputs only.

use burn_autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::{Tracked, d_bias, register, step};
use crate::{Conv3dOptions, KernelBackend};

#[derive(Debug)]
struct Conv3dBackward;

/// What the gradients need; each part only if they do.
#[derive(Debug, Clone)]
struct State {
    /// For the gradient of the weight.
    x: Option<NodeId>,
    /// For the gradient of the input.
    weight: Option<NodeId>,
    x_dims: [usize; 5],
    weight_dims: [usize; 5],
    options: Conv3dOptions,
}

impl<B: KernelBackend> Backward<B, 3> for Conv3dBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<B>(&ops.node);
        let state = &ops.state;
        let d_x = state.weight.map(|node| {
            let weight: FloatTensor<B> = checkpointer.retrieve_node_output(node);
            // Burn's backends have methods of these names, too.
            let (d_out, input) = (d_out.clone(), state.x_dims);
            <B as KernelBackend>::conv3d_x_backward(weight, d_out, input, state.options)
        });
        let d_weight = state.x.map(|node| {
            let x: FloatTensor<B> = checkpointer.retrieve_node_output(node);
            let (d_out, weight) = (d_out.clone(), state.weight_dims);
            <B as KernelBackend>::conv3d_weight_backward(x, d_out, weight, state.options)
        });
        let d_bias = ops.parents[2].is_some().then(|| d_bias::<B>(d_out));
        register::<B, _, 3>(grads, ops, [d_x, d_weight, d_bias]);
    }
}

pub(super) fn conv3d_forward<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    bias: Tracked<B, C>,
    options: Conv3dOptions,
) -> Tracked<B, C> {
    step!(
        Conv3dBackward,
        [x, weight, bias],
        |prep| State {
            x: weight.is_tracked().then(|| prep.checkpoint(&x)),
            weight: x.is_tracked().then(|| prep.checkpoint(&weight)),
            x_dims: x.primitive.shape().dims(),
            weight_dims: weight.primitive.shape().dims(),
            options,
        },
        B::conv3d_forward(x.primitive, weight.primitive, bias.primitive, options)
    )
}
