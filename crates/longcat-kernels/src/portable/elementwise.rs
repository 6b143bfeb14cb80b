//! Portable bodies of gated residuals and gated units.

use burn::tensor::{activation::sigmoid, backend::Backend};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::groups::{finish, grouped, table};
use super::{accumulator, to_dtype};

/// See [`KernelBackend::gated_residual_forward`](crate::KernelBackend::gated_residual_forward).
pub fn gated_residual_forward<B: Backend>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    gate: FloatTensor<B>,
) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let groups = gate.shape()[0];
    let y = grouped::<B>(y, groups) * table::<B>(gate, accumulator(dtype));
    finish(grouped::<B>(x, groups) + y, shape, dtype)
}

/// See [`KernelBackend::gated_residual_y_backward`](crate::KernelBackend::gated_residual_y_backward).
pub fn gated_residual_y_backward<B: Backend>(
    d_out: FloatTensor<B>,
    gate: FloatTensor<B>,
) -> FloatTensor<B> {
    let (shape, dtype) = (d_out.shape(), d_out.dtype());
    let groups = gate.shape()[0];
    let d_y = grouped::<B>(d_out, groups) * table::<B>(gate, accumulator(dtype));
    finish(d_y, shape, dtype)
}

/// See [`KernelBackend::silu_mul_forward`](crate::KernelBackend::silu_mul_forward).
pub fn silu_mul_forward<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    let (shape, dtype) = (a.shape(), a.dtype());
    let a = grouped::<B>(a, 1);
    let gate = to_dtype(to_dtype(a.clone() * sigmoid(a), dtype), accumulator(dtype));
    finish(gate * grouped::<B>(b, 1), shape, dtype)
}

/// See [`KernelBackend::silu_mul_backward`](crate::KernelBackend::silu_mul_backward).
///
/// silu'(a) = σ(a) · (1 + a · (1 − σ(a))).
pub fn silu_mul_backward<B: Backend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    d_out: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, dtype) = (a.shape(), a.dtype());
    let [a, b, d_out] = [a, b, d_out].map(|x| grouped::<B>(x, 1));
    let gate = sigmoid(a.clone());
    let slope = gate.clone() * (a.clone() * (gate.clone().neg() + 1.0) + 1.0);
    let d_a = finish(d_out.clone() * b * slope, shape.clone(), dtype);
    (d_a, finish(d_out * a * gate, shape, dtype))
}
