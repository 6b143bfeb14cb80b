//! Portable body of `linear`.

use burn::tensor::Tensor;
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::{from_float, into_float, matmul};
use crate::KernelBackend;

/// See [`KernelBackend::linear_forward`](crate::KernelBackend::linear_forward).
pub fn linear_forward<B: KernelBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let mut shape = x.shape();
    let d_in = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / d_in.max(1);
    let weight: Tensor<B, 2> = from_float(weight);
    let d_out = weight.dims()[0];
    // One flat product: leading dimensions are only rows. A matrix may be a transposed one, which
    // reshaping would copy.
    let x: Tensor<B, 2> = from_float(match shape.num_dims() {
        2 => x,
        _ => B::float_reshape(x, Shape::new([rows, d_in])),
    });
    let mut y = matmul(x, weight.transpose());
    if let Some(bias) = bias {
        y = y + from_float::<B, 1>(bias).unsqueeze();
    }
    let last = shape.num_dims() - 1;
    shape[last] = d_out;
    B::float_reshape(into_float(y), shape)
}
