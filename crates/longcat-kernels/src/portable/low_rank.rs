//! Portable body of `add_low_rank`.

use burn::tensor::Tensor;
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::{from_float, into_float};
use crate::{KernelBackend, LowRankPart, linear};

/// See [`KernelBackend::add_low_rank_forward`].
pub fn add_low_rank_forward<B: KernelBackend>(
    y: FloatTensor<B>,
    hidden: FloatTensor<B>,
    parts: Vec<LowRankPart<B>>,
) -> FloatTensor<B> {
    let shape = y.shape();
    let columns = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / columns.max(1);
    let rank = hidden.shape()[shape.num_dims() - 1];
    let y: Tensor<B, 2> = from_float(B::float_reshape(y, Shape::new([rows, columns])));
    let hidden: Tensor<B, 2> = from_float(B::float_reshape(hidden, Shape::new([rows, rank])));
    let zeros = |columns: usize| Tensor::zeros([rows, columns], (&y.device(), y.dtype()));
    let mut terms = Vec::new();
    let mut column = 0;
    for part in parts {
        let up: Tensor<B, 2> = from_float(part.up);
        let [out, r] = up.dims();
        if part.start > column {
            terms.push(zeros(part.start - column));
        }
        terms.push(linear(hidden.clone().narrow(1, part.first, r), up, None));
        column = part.start + out;
    }
    if column < columns {
        terms.push(zeros(columns - column));
    }
    let term = match terms.len() {
        1 => terms.remove(0),
        _ => Tensor::cat(terms, 1),
    };
    B::float_reshape(into_float(y + term), shape)
}
