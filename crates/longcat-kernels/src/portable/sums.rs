//! Portable bodies of reductions.

use burn::tensor::{Tensor, backend::Backend};
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::{accumulator, from_float, into_float, to_dtype};

/// See [`KernelBackend::column_sums`](crate::KernelBackend::column_sums).
pub fn column_sums<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width.max(1);
    let dtype = accumulator(x.dtype());
    let x: Tensor<B, 2> = from_float(B::float_reshape(x, Shape::new([rows, width])));
    into_float(to_dtype(x, dtype).sum_dim(0).reshape([width]))
}

/// See [`KernelBackend::block_sums`](crate::KernelBackend::block_sums).
pub fn block_sums<B: Backend>(x: FloatTensor<B>, block: usize) -> FloatTensor<B> {
    let dtype = accumulator(x.dtype());
    let x: Tensor<B, 2> = from_float(x);
    let [rows, width] = x.dims();
    let x = to_dtype(x, dtype).reshape([rows / block, block, width]);
    into_float(x.sum_dim(1).squeeze_dim::<2>(1))
}

/// See [`KernelBackend::softmax_with_lse`](crate::KernelBackend::softmax_with_lse).
pub fn softmax_with_lse<B: Backend>(
    scores: FloatTensor<B>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let scores = from_float::<B, 4>(scores) * scale;
    let max = scores.clone().max_dim(3);
    let weights = (scores - max.clone()).exp();
    let sum = weights.clone().sum_dim(3);
    let lse = (max + sum.clone().log()).squeeze_dim::<3>(3);
    (into_float(weights / sum), into_float(lse))
}
