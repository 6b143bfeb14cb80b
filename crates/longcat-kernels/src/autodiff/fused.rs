//! The fused operations, with gradients for what flows through the blocks.
//!
//! Where a table (a weight of a norm, a modulation, a gate) is tracked itself, the operation is
//! left to its portable body, whose every step autodiff knows.

use burn::tensor::{Tensor, activation::sigmoid};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{DType, Shape, TensorMetadata, tensor::FloatTensor};

use crate::portable::{from_float, into_float, to_dtype};
use crate::{KernelBackend, fused::portable};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;
type Norm<B> = (FloatTensor<B>, f64);
type Rotation<B> = (FloatTensor<B>, FloatTensor<B>);

#[derive(Debug)]
struct LayerNormBackward;

#[derive(Debug, Clone)]
struct LayerNormState<B: KernelBackend> {
    x: NodeId,
    weight: FloatTensor<B>,
    epsilon: f64,
}

impl<B: KernelBackend> Backward<B, 1> for LayerNormBackward {
    type State = LayerNormState<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let state = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(state.x);
        if let [Some(node)] = ops.parents {
            let dx = B::layer_norm_backward(x, state.weight, d_out, state.epsilon);
            grads.register::<B>(node.id, dx);
        }
    }
}

pub(super) fn layer_norm<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    bias: Tracked<B, C>,
    epsilon: f64,
) -> Tracked<B, C> {
    if weight.is_tracked() || bias.is_tracked() {
        return portable::layer_norm::<Autodiff<B, C>>(x, weight, bias, epsilon);
    }
    let (weight, bias) = (weight.primitive, bias.primitive);
    match LayerNormBackward
        .prepare::<C>([x.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let state = LayerNormState {
                x: prep.checkpoint(&x),
                weight: weight.clone(),
                epsilon,
            };
            let out = B::grouped_layer_norm(x.primitive, weight, bias, epsilon);
            prep.finish(state, out)
        }
        OpsKind::UnTracked(prep) => {
            prep.finish(B::grouped_layer_norm(x.primitive, weight, bias, epsilon))
        }
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
        for (node, value) in ops.parents.into_iter().zip([dx, d_weight]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, value);
            }
        }
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

#[derive(Debug)]
struct GatedResidualBackward;

impl<B: KernelBackend> Backward<B, 2> for GatedResidualBackward {
    /// The gate.
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_out = grads.consume::<B>(&ops.node);
        let [x, y] = ops.parents;
        if let Some(node) = y {
            let dy = portable::scaled_rows::<B>(d_out.clone(), ops.state);
            grads.register::<B>(node.id, dy);
        }
        if let Some(node) = x {
            grads.register::<B>(node.id, d_out);
        }
    }
}

pub(super) fn gated_residual<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    y: Tracked<B, C>,
    gate: Tracked<B, C>,
) -> Tracked<B, C> {
    if gate.is_tracked() {
        return portable::gated_residual::<Autodiff<B, C>>(x, y, gate);
    }
    let gate = gate.primitive;
    match GatedResidualBackward
        .prepare::<C>([x.node.clone(), y.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let out = B::gated_residual(x.primitive, y.primitive, gate.clone());
            prep.finish(gate, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::gated_residual(x.primitive, y.primitive, gate)),
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
        let (shape, dtype) = (a.shape(), a.dtype());
        let flat = |x: FloatTensor<B>| -> Tensor<B, 1> {
            let elements = x.shape().num_elements();
            let x = from_float(B::float_reshape(x, Shape::new([elements])));
            to_dtype(x, DType::F32)
        };
        let (a, b, d_out) = (flat(a), flat(b), flat(d_out));
        let gate = sigmoid(a.clone());
        // silu'(a) = σ(a) · (1 + a · (1 − σ(a))).
        let slope = gate.clone() * (a.clone() * (gate.clone().neg() + 1.0) + 1.0);
        let da = d_out.clone() * b * slope;
        let db = d_out * a * gate;
        for (node, value) in ops.parents.into_iter().zip([da, db]) {
            if let Some(node) = node {
                let value = into_float(to_dtype(value, dtype));
                grads.register::<B>(node.id, B::float_reshape(value, shape.clone()));
            }
        }
    }
}

pub(super) fn silu_mul<B: KernelBackend, C: CheckpointStrategy>(
    a: Tracked<B, C>,
    b: Tracked<B, C>,
) -> Tracked<B, C> {
    if a.dtype() == DType::F64 {
        return portable::silu_mul::<Autodiff<B, C>>(a, b);
    }
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

#[derive(Debug)]
struct SplitHeadsBackward;

#[derive(Debug, Clone)]
struct SplitHeadsState<B: KernelBackend> {
    x: NodeId,
    part: usize,
    norm: Option<Norm<B>>,
    rotation: Option<Rotation<B>>,
}

impl<B: KernelBackend> Backward<B, 1> for SplitHeadsBackward {
    type State = SplitHeadsState<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let SplitHeadsState {
            x,
            part,
            norm,
            rotation,
        } = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let [Some(node)] = ops.parents else { return };
        let shape = x.shape();
        let (dtype, device) = (x.dtype(), B::float_device(&x));
        let own = B::split_heads_backward(x, part, norm, rotation, d_out);
        let own: Tensor<B, 4> = from_float(own);
        let mut pieces = vec![own.unsqueeze_dim::<5>(2)];
        let zeros = |parts: usize| {
            let shape = [shape[0], shape[1], parts, shape[3], shape[4]];
            Tensor::<B, 5>::zeros(shape, (&device, dtype))
        };
        if part > 0 {
            pieces.insert(0, zeros(part));
        }
        if part + 1 < shape[2] {
            pieces.push(zeros(shape[2] - part - 1));
        }
        let dx = match pieces.len() {
            1 => pieces.remove(0),
            _ => Tensor::cat(pieces, 2),
        };
        grads.register::<B>(node.id, into_float(dx));
    }
}

pub(super) fn split_heads<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    part: usize,
    norm: Option<(Tracked<B, C>, f64)>,
    rotation: Option<(Tracked<B, C>, Tracked<B, C>)>,
) -> Tracked<B, C> {
    if norm.as_ref().is_some_and(|(weight, _)| weight.is_tracked()) {
        return portable::split_heads::<Autodiff<B, C>>(x, part, norm, rotation);
    }
    let norm = norm.map(|(weight, epsilon)| (weight.primitive, epsilon));
    let rotation = rotation.map(|(cos, sin)| (cos.primitive, sin.primitive));
    match SplitHeadsBackward
        .prepare::<C>([x.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let state = SplitHeadsState {
                x: prep.checkpoint(&x),
                part,
                norm: norm.clone(),
                rotation: rotation.clone(),
            };
            let out = B::split_heads(x.primitive, part, norm, rotation);
            prep.finish(state, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::split_heads(x.primitive, part, norm, rotation)),
    }
}
