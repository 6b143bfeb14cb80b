//! The order in which tokens and heads lie in memory.

use burn::tensor::Tensor;

use crate::KernelBackend;
use crate::portable::{from_float, into_float};

/// Outputs of all heads `[B, H, N, D]` side by side, `[B, N, H · D]`.
pub fn merge_heads<B: KernelBackend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [b, heads, n, d] = x.dims();
    permuted(x, [0, 2, 1, 3]).reshape([b, n, heads * d])
}

/// `x` with its dimensions in the order `axes`; see [`KernelBackend::permuted`].
pub(crate) fn permuted<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    axes: [usize; D],
) -> Tensor<B, D> {
    from_float(B::permuted(into_float(x), &axes))
}
