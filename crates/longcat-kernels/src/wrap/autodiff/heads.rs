//! The split into heads, with gradients of the fused heads and of the norm's weight.

use burn::tensor::{Tensor, s};
use burn_autodiff::{
    NodeId,
    checkpoint::{
        base::Checkpointer,
        strategy::{CheckpointStrategy, NoCheckpointing},
    },
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::{Tracked, constant, step};
use crate::KernelBackend;
use crate::portable::{from_float, into_float};

type Norm<B> = (FloatTensor<B>, f64);
type Rotation<B> = (FloatTensor<B>, FloatTensor<B>);

#[derive(Debug)]
struct SplitHeadsBackward;

#[derive(Debug, Clone)]
struct SplitHeadsState<B: KernelBackend> {
    x: NodeId,
    part: usize,
    norm: Option<Norm<B>>,
    rotation: Option<Rotation<B>>,
}

impl<B: KernelBackend> SplitHeadsState<B> {
    /// Adds the gradient in the part taken to what there is of the gradient in all of `x`.
    ///
    /// Other parts bring theirs in turn, so one tensor of the size of `x` takes them all.
    fn add_to_d_x(
        self,
        x: FloatTensor<B>,
        d_out: FloatTensor<B>,
        d_x: Option<FloatTensor<B>>,
    ) -> FloatTensor<B> {
        let (shape, part) = (x.shape(), self.part);
        let (dtype, device) = (x.dtype(), B::float_device(&x));
        let own = B::split_heads_x_backward(x, part, self.norm, self.rotation, d_out);
        let own = from_float::<B, 4>(own).unsqueeze_dim::<5>(2);
        let (d_x, own) = match d_x.map(from_float::<B, 5>) {
            Some(d_x) => (d_x.clone(), d_x.narrow(2, part, 1) + own),
            None => (Tensor::zeros(shape, (&device, dtype)), own),
        };
        let place = [s![..], s![..], s![part..part + 1], s![..], s![..]];
        into_float(d_x.slice_assign(place, own))
    }

    /// The gradient in the weight of the norm.
    fn d_weight(&self, x: FloatTensor<B>, d_out: FloatTensor<B>) -> Option<FloatTensor<B>> {
        let (norm, rotation) = (self.norm.clone()?, self.rotation.clone());
        Some(B::split_heads_weight_backward(
            x, self.part, norm, rotation, d_out,
        ))
    }
}

/// The parents are the fused heads and, if there is a norm, its weight.
impl<B: KernelBackend, const N: usize> Backward<B, N> for SplitHeadsBackward {
    type State = SplitHeadsState<B>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<B>(&ops.node);
        let state = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(state.x);
        let mut parents = ops.parents.into_iter();
        let (fused, weight) = (parents.next().flatten(), parents.next().flatten());
        if let Some(node) = weight
            && let Some(d_weight) = state.d_weight(x.clone(), d_out.clone())
        {
            grads.register::<B>(node.id, d_weight);
        }
        if let Some(node) = fused {
            let id = node.id;
            // Gradients are taken out by tensor: any with this node will do.
            let mut of_node = constant::<B, NoCheckpointing>(x.clone());
            of_node.node = node;
            let d_x = state.add_to_d_x(x, d_out, grads.remove::<B>(&of_node));
            grads.register::<B>(id, d_x);
        }
    }
}

pub(super) fn split_heads_forward<B: KernelBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    part: usize,
    norm: Option<(Tracked<B, C>, f64)>,
    rotation: Option<(Tracked<B, C>, Tracked<B, C>)>,
) -> Tracked<B, C> {
    let rotation = rotation.map(|(cos, sin)| (cos.primitive, sin.primitive));
    // The number of parents is part of the step's type, hence the two arms.
    macro_rules! split_heads {
        ([$($parent:expr),+], $norm:expr) => {
            step!(
                SplitHeadsBackward,
                [$($parent),+],
                |prep| SplitHeadsState {
                    x: prep.checkpoint(&x),
                    part,
                    norm: $norm.clone(),
                    rotation: rotation.clone(),
                },
                B::split_heads_forward(x.primitive, part, $norm, rotation)
            )
        };
    }
    match norm {
        None => {
            let norm: Option<Norm<B>> = None;
            split_heads!([x], norm)
        }
        Some((weight, epsilon)) => {
            let norm = Some((weight.primitive, epsilon));
            split_heads!([x, weight], norm)
        }
    }
}
