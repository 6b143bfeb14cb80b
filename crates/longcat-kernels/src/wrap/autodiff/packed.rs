//! `linear_packed` with gradients for its input and bias.

use burn::tensor::{DType, Tensor};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::{Tracked, constant, d_bias, register};
use crate::portable::{from_float, into_float};
use crate::{KernelBackend, PackedTensors};

#[derive(Debug)]
struct LinearPackedBackward;

/// The weight stays packed until the gradient needs its numbers, and those are gone after it.
#[derive(Debug, Clone)]
struct State<B: KernelBackend> {
    weight: PackedTensors<B>,
    x_shape: Shape,
}

impl<B: KernelBackend> State<B> {
    /// The gradient of the output as `[rows, out]`.
    fn rows_of(&self, grad: FloatTensor<B>) -> Tensor<B, 2> {
        let [d_out, d_in] = self.weight.layout.shape;
        let rows = self.x_shape.num_elements() / d_in.max(1);
        from_float(B::float_reshape(grad, Shape::new([rows, d_out])))
    }

    /// The gradient of the input, grad · W for the numbers that the forward pass multiplied with.
    fn d_x(self, grad: Tensor<B, 2>) -> FloatTensor<B> {
        let grad = into_float(grad);
        let weight = B::unpack_weight_forward(self.weight, grad.dtype());
        let d_x = B::linear_forward(grad, B::float_transpose(weight), None);
        B::float_reshape(d_x, self.x_shape)
    }
}

impl<B: KernelBackend> Backward<B, 1> for LinearPackedBackward {
    type State = State<B>;

    fn backward(self, ops: Ops<State<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let state = ops.state.clone();
        let grad = state.rows_of(grad);
        let d_x = state.d_x(grad);
        register::<B, _, 1>(grads, ops, [Some(d_x)]);
    }
}

impl<B: KernelBackend> Backward<B, 2> for LinearPackedBackward {
    type State = State<B>;

    fn backward(self, ops: Ops<State<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let state = ops.state.clone();
        let grad = state.rows_of(grad);
        let [x, bias] = &ops.parents;
        let d_bias = bias
            .is_some()
            .then(|| d_bias::<B>(into_float(grad.clone())));
        let d_x = x.is_some().then(|| state.d_x(grad));
        register::<B, _, 2>(grads, ops, [d_x, d_bias]);
    }
}

/// The same weight, of the inner backend.
fn inner<B: KernelBackend, C: CheckpointStrategy>(
    weight: PackedTensors<Autodiff<B, C>>,
) -> PackedTensors<B> {
    PackedTensors {
        words: weight.words,
        scale: weight.scale.map(|scale| scale.primitive),
        layout: weight.layout,
        products: weight.products,
    }
}

pub(super) fn unpack_weight_forward<B: KernelBackend, C: CheckpointStrategy>(
    weight: PackedTensors<Autodiff<B, C>>,
    dtype: DType,
) -> Tracked<B, C> {
    constant::<B, C>(B::unpack_weight_forward(inner(weight), dtype))
}

pub(super) fn linear_packed_forward<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: PackedTensors<Autodiff<B, C>>,
    bias: Option<Tracked<B, C>>,
) -> Tracked<B, C> {
    let weight = inner(weight);
    let state = State {
        weight: weight.clone(),
        x_shape: x.primitive.shape(),
    };
    // The number of parents is part of the step's type, hence the two arms.
    macro_rules! linear {
        ([$($parent:expr),+], $bias:expr) => {
            match Backward::<B, _>::prepare::<C>(LinearPackedBackward, [$($parent.node.clone()),+])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => {
                    prep.finish(state, B::linear_packed_forward(x.primitive, weight, $bias))
                }
                OpsKind::UnTracked(prep) => {
                    prep.finish(B::linear_packed_forward(x.primitive, weight, $bias))
                }
            }
        };
    }
    match bias {
        None => linear!([x], None),
        Some(bias) => linear!([x, bias], Some(bias.primitive)),
    }
}
