//! Matrix products that no backend gets wrong.

use burn::tensor::{Tensor, backend::Backend};
use burn_backend::tensor::FloatTensor;

use super::{from_float, into_float};
use crate::KernelBackend;

/// `lhs · rhs` over the last two dimensions.
///
/// Zeros fill the inner dimension up to a multiple of
/// [`KernelDevice::INNER_MULTIPLE`](crate::KernelDevice::INNER_MULTIPLE); under autodiff also the other
/// two, which are inner dimensions of the backward pass.
pub fn matmul<B: KernelBackend, const D: usize>(
    lhs: Tensor<B, D>,
    rhs: Tensor<B, D>,
) -> Tensor<B, D> {
    let (row, column) = (D - 2, D - 1);
    let (rows, columns) = (lhs.dims()[row], rhs.dims()[column]);
    let (mut lhs, mut rhs) = (padded(lhs, column), padded(rhs, row));
    if !B::ad_enabled(&lhs.device()) {
        return lhs.matmul(rhs);
    }
    (lhs, rhs) = (padded(lhs, row), padded(rhs, column));
    lhs.matmul(rhs)
        .narrow(row, 0, rows)
        .narrow(column, 0, columns)
}

/// See [`KernelBackend::matmul_nt_forward`].
pub fn matmul_nt_forward<B: KernelBackend>(q: FloatTensor<B>, k: FloatTensor<B>) -> FloatTensor<B> {
    let (q, k): (Tensor<B, 4>, Tensor<B, 4>) = (from_float(q), from_float(k));
    into_float(matmul(q, k.swap_dims(2, 3)))
}

/// `dim` filled up with zeros to a multiple of `INNER_MULTIPLE`.
fn padded<B: KernelBackend, const D: usize>(x: Tensor<B, D>, dim: usize) -> Tensor<B, D> {
    let size = x.dims()[dim].next_multiple_of(B::INNER_MULTIPLE);
    filled(x, dim, size)
}

/// `dim` filled up with zeros to `size`.
pub(crate) fn filled<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    dim: usize,
    size: usize,
) -> Tensor<B, D> {
    let mut shape = x.dims();
    if shape[dim] == size {
        return x;
    }
    shape[dim] = size - shape[dim];
    let zeros = Tensor::zeros(shape, (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], dim)
}
