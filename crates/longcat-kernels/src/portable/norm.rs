//! Portable bodies of the normalisations.

use burn::tensor::{activation::sigmoid, backend::Backend};
use burn_backend::{TensorMetadata, tensor::FloatTensor};

use super::groups::{finish, grouped, table};
use super::{accumulator, from_float, into_float, to_dtype};
use crate::ops::MIN_SQUARED_NORM;

/// See [`KernelBackend::layer_norm_forward`](crate::KernelBackend::layer_norm_forward).
pub fn layer_norm_forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let x = grouped::<B>(x, weight.shape()[0]);
    let x = x.clone() - x.mean_dim(2);
    let variance = x.clone().square().mean_dim(2);
    let normed = x / (variance + epsilon).sqrt();
    let y = normed * table::<B>(weight, accumulator(dtype)) + table::<B>(bias, accumulator(dtype));
    finish(y, shape, dtype)
}

/// See [`KernelBackend::layer_norm_x_backward`](crate::KernelBackend::layer_norm_x_backward).
///
/// With x̂ the normalised row and g = weight · d_out:
/// dx = (g − mean(g) − x̂ · mean(g · x̂)) / deviation.
pub fn layer_norm_x_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    d_out: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let groups = weight.shape()[0];
    let x = grouped::<B>(x, groups);
    let x = x.clone() - x.mean_dim(2);
    let deviation = (x.clone().square().mean_dim(2) + epsilon).sqrt();
    let normed = x / deviation.clone();
    let g = grouped::<B>(d_out, groups) * table::<B>(weight, accumulator(dtype));
    let along = (g.clone() * normed.clone()).mean_dim(2);
    let dx = (g.clone() - g.mean_dim(2) - normed * along) / deviation;
    finish(dx, shape, dtype)
}

/// See [`KernelBackend::rms_norm_forward`](crate::KernelBackend::rms_norm_forward).
pub fn rms_norm_forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    silu: bool,
) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let x = grouped::<B>(x, 1);
    let channels = x.dims()[2];
    let weight = to_dtype(from_float::<B, 1>(weight), accumulator(dtype));
    let weight = weight.reshape([1, 1, channels]) * (channels as f64).sqrt();
    let squared_norm = x.clone().square().sum_dim(2);
    let y = x / squared_norm.clamp_min(MIN_SQUARED_NORM).sqrt() * weight;
    if !silu {
        return finish(y, shape, dtype);
    }
    let y = to_dtype(to_dtype(y, dtype), accumulator(dtype));
    finish(y.clone() * sigmoid(y), shape, dtype)
}

/// See [`KernelBackend::rms_norm_backward`](crate::KernelBackend::rms_norm_backward).
///
/// With x̂ = √C · x / |x|, y = weight · x̂ and g the gradient of y: d_weight = Σ g · x̂ and
/// dx = √C / |x| · (h − x̂ · mean(h · x̂)) where h = weight · g. Where the norm is at its bound, it
/// is a constant.
pub fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    d_out: FloatTensor<B>,
    silu: bool,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, dtype) = (x.shape(), x.dtype());
    let x = grouped::<B>(x, 1);
    let channels = x.dims()[2];
    let weight_dtype = weight.dtype();
    let weight = to_dtype(from_float::<B, 1>(weight), accumulator(dtype));
    let weight = weight.reshape([1, 1, channels]);
    let squared_norm = x.clone().square().sum_dim(2);
    let free = squared_norm.clone().greater_elem(MIN_SQUARED_NORM);
    let factor = squared_norm.clamp_min(MIN_SQUARED_NORM).sqrt().recip() * (channels as f64).sqrt();
    let normed = x * factor.clone();
    let mut g = grouped::<B>(d_out, 1);
    if silu {
        let y = normed.clone() * weight.clone();
        let s = sigmoid(y.clone());
        // d silu(y) = s + y · s · (1 − s).
        g = g * (s.clone() + y * s.clone() * (s.neg() + 1.0));
    }
    let d_weight = (g.clone() * normed.clone()).sum_dim(1);
    let h = g * weight;
    let along = (h.clone() * normed.clone()).mean_dim(2) * free.float().cast(h.dtype());
    let d_x = (h - normed * along) * factor;
    (
        finish(d_x, shape, dtype),
        into_float(to_dtype(d_weight.reshape([channels]), weight_dtype)),
    )
}
