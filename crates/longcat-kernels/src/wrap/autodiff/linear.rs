//! `linear` with gradients for tracked inputs only.

use burn::tensor::Tensor;
use burn_autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::{Tracked, d_bias, register, step};
use crate::KernelBackend;
use crate::portable::{from_float, into_float};

#[derive(Debug)]
struct LinearBackward;

/// What the gradients need; each part only if they do.
#[derive(Debug, Clone)]
struct State {
    /// For the gradient of the weight.
    x: Option<NodeId>,
    /// For the gradient of the input.
    weight: Option<NodeId>,
    x_shape: Shape,
}

impl State {
    fn d_in(&self) -> usize {
        self.x_shape[self.x_shape.num_dims() - 1]
    }

    fn rows(&self) -> usize {
        self.x_shape.num_elements() / self.d_in().max(1)
    }
}

/// Gradients of input and weight, for 2 parents or the first 2 of 3.
fn d_input_and_weight<B: KernelBackend>(
    state: &State,
    grad: &Tensor<B, 2>,
    checkpointer: &mut Checkpointer,
) -> (Option<FloatTensor<B>>, Option<FloatTensor<B>>) {
    let dx = state.weight.map(|node| {
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(node);
        // dx = grad · W, which is linear() with the weight's transpose as its weight.
        let dx = B::linear_forward(into_float(grad.clone()), B::float_transpose(weight), None);
        B::float_reshape(dx, state.x_shape.clone())
    });
    let d_weight = state.x.map(|node| {
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(node);
        let x = B::float_reshape(x, Shape::new([state.rows(), state.d_in()]));
        // dW = gradᵀ · x, which is linear() of two transposes.
        let grad = into_float(grad.clone().transpose());
        B::linear_forward(grad, B::float_transpose(x), None)
    });
    (dx, d_weight)
}

/// The gradient of the output as `[rows, out]`.
fn rows_of<B: KernelBackend>(grad: FloatTensor<B>, state: &State) -> Tensor<B, 2> {
    let shape = grad.shape();
    let d_out = shape[shape.num_dims() - 1];
    from_float(B::float_reshape(grad, Shape::new([state.rows(), d_out])))
}

impl<B: KernelBackend> Backward<B, 2> for LinearBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = rows_of::<B>(grads.consume::<B>(&ops.node), &ops.state);
        let (dx, d_weight) = d_input_and_weight::<B>(&ops.state, &grad, checkpointer);
        register::<B, _, 2>(grads, ops, [dx, d_weight]);
    }
}

impl<B: KernelBackend> Backward<B, 3> for LinearBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = rows_of::<B>(grads.consume::<B>(&ops.node), &ops.state);
        let (dx, d_weight) = d_input_and_weight::<B>(&ops.state, &grad, checkpointer);
        let d_bias = ops.parents[2]
            .is_some()
            .then(|| d_bias::<B>(into_float(grad)));
        register::<B, _, 3>(grads, ops, [dx, d_weight, d_bias]);
    }
}

pub(super) fn linear_forward<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    bias: Option<Tracked<B, C>>,
) -> Tracked<B, C> {
    // The number of parents is part of the step's type, hence the two arms.
    macro_rules! linear {
        ([$($parent:expr),+], $bias:expr) => {
            step!(
                LinearBackward,
                [$($parent),+],
                |prep| State {
                    x: weight.is_tracked().then(|| prep.checkpoint(&x)),
                    weight: x.is_tracked().then(|| prep.checkpoint(&weight)),
                    x_shape: x.primitive.shape(),
                },
                B::linear_forward(x.primitive, weight.primitive, $bias)
            )
        };
    }
    match bias {
        None => linear!([x, weight], None),
        Some(bias) => linear!([x, weight, bias], Some(bias.primitive)),
    }
}
