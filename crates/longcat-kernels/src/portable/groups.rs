//! Rows in groups that share a row of a table, and sums over them.

use burn::tensor::{DType, Tensor, backend::Backend};
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::{accumulator, from_float, into_float, to_dtype};

/// `x` as `[groups, rows, C]`, and a table `[groups, C]` as `[groups, 1, C]`, in f32.
pub(super) fn grouped<B: Backend>(x: FloatTensor<B>, groups: usize) -> Tensor<B, 3> {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / (groups * width);
    let dtype = accumulator(x.dtype());
    let x = B::float_reshape(x, Shape::new([groups, rows, width]));
    to_dtype(from_float(x), dtype)
}

pub(super) fn table<B: Backend>(table: FloatTensor<B>, dtype: DType) -> Tensor<B, 3> {
    to_dtype(from_float::<B, 2>(table), dtype).unsqueeze_dim(1)
}

pub(super) fn finish<B: Backend>(x: Tensor<B, 3>, shape: Shape, dtype: DType) -> FloatTensor<B> {
    B::float_reshape(into_float(to_dtype(x, dtype)), shape)
}

/// Sums over the rows of each group, `[groups, C]` in f32.
pub(crate) fn group_sums<B: Backend>(x: FloatTensor<B>, groups: usize) -> FloatTensor<B> {
    into_float(grouped::<B>(x, groups).sum_dim(1).squeeze_dim::<2>(1))
}

/// Sums of `x · y` over the rows of each group, `[groups, C]` in f32: the gradient of a table.
pub(crate) fn product_sums<B: Backend>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    groups: usize,
) -> FloatTensor<B> {
    let products = grouped::<B>(x, groups) * grouped::<B>(y, groups);
    into_float(products.sum_dim(1).squeeze_dim::<2>(1))
}
