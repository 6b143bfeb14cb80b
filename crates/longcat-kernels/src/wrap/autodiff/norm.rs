//! The norms, with gradients of input and tables; those of the tables only where they are tracked.

use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::register;
use crate::KernelBackend;
use crate::portable::{from_float, group_sums, into_float, product_sums};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

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
            let normed = B::grouped_layer_norm(x.clone(), into_float(ones), zeros, epsilon);
            let sums = product_sums::<B>(d_out.clone(), normed, groups);
            grads.register::<B>(node.id, sums);
        }
        if let Some(node) = d_bias {
            grads.register::<B>(node.id, group_sums::<B>(d_out.clone(), groups));
        }
        if let Some(node) = d_x {
            let d_x = B::layer_norm_backward(x, weight, d_out, epsilon);
            grads.register::<B>(node.id, d_x);
        }
    }
}

pub(super) fn layer_norm<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    bias: Tracked<B, C>,
    epsilon: f64,
) -> Tracked<B, C> {
    let nodes = [x.node.clone(), weight.node.clone(), bias.node.clone()];
    let step = LayerNormBackward.prepare::<C>(nodes);
    match step.compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = LayerNormState {
                x: prep.checkpoint(&x),
                weight: weight.primitive.clone(),
                epsilon,
            };
            let out = B::grouped_layer_norm(x.primitive, weight.primitive, bias.primitive, epsilon);
            prep.finish(state, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::grouped_layer_norm(
            x.primitive,
            weight.primitive,
            bias.primitive,
            epsilon,
        )),
    }
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

pub(super) fn rms_norm<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    silu: bool,
) -> Tracked<B, C> {
    match RmsNormBackward
        .prepare::<C>([x.node.clone(), weight.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let state = (prep.checkpoint(&x), prep.checkpoint(&weight), silu);
            prep.finish(state, B::rms_norm(x.primitive, weight.primitive, silu))
        }
        OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x.primitive, weight.primitive, silu)),
    }
}
