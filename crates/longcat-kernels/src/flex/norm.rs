//! The norms on the CPU, for contiguous f32: each row is read once, rows in parallel.

use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;

use super::exp2::silu;
use super::rows::{dot, in_parallel, like, new_rows, rows_per_task, sum};
use crate::ops::MIN_SQUARED_NORM;

/// See `KernelBackend::layer_norm_forward`.
pub(super) fn layer_norm_forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    epsilon: f64,
) -> FlexTensor {
    let epsilon = epsilon as f32;
    let table: [usize; 2] = weight.shape().dims();
    let width = table[1];
    let (input, weight, bias) = (x.storage::<f32>(), weight.storage(), bias.storage());
    let out = new_rows(input.len(), table, |start, group, out| {
        let x = &input[start..][..width];
        let weight: &[f32] = &weight[group..][..width];
        let bias: &[f32] = &bias[group..][..width];
        let mean = sum(x, |x| x) / width as f32;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * inverse * weight + bias;
        }
    });
    like(&x, out)
}

/// See `KernelBackend::layer_norm_x_backward`.
pub(super) fn layer_norm_x_backward(
    x: FlexTensor,
    weight: FlexTensor,
    d_out: FlexTensor,
    epsilon: f64,
) -> FlexTensor {
    let epsilon = epsilon as f32;
    let table: [usize; 2] = weight.shape().dims();
    let width = table[1];
    let (input, gradient) = (x.storage::<f32>(), d_out.storage::<f32>());
    let weight = weight.storage::<f32>();
    let out = new_rows(input.len(), table, |start, group, out| {
        let (x, d_out) = (&input[start..][..width], &gradient[start..][..width]);
        let weight = &weight[group..][..width];
        let count = width as f32;
        let mean = sum(x, |x| x) / count;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        for ((g, d_out), weight) in out.iter_mut().zip(d_out).zip(weight) {
            *g = d_out * weight;
        }
        let along = dot(out, x, |x| (x - mean) * inverse) / count;
        let mean_g = sum(out, |g| g) / count;
        for (g, x) in out.iter_mut().zip(x) {
            *g = (*g - mean_g - (x - mean) * inverse * along) * inverse;
        }
    });
    like(&x, out)
}

/// See `KernelBackend::rms_norm_forward`.
pub(super) fn rms_norm_forward(x: FlexTensor, weight: FlexTensor, with_silu: bool) -> FlexTensor {
    let (input, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let channels = weight.len();
    let scale = (channels as f32).sqrt();
    let task = rows_per_task(channels) * channels;
    let out = in_parallel(input.len(), task, |start, out| {
        let x = &input[start..];
        let rows = out.chunks_exact_mut(channels);
        for (out, x) in rows.zip(x.chunks_exact(channels)) {
            let squares = sum(x, |x| x * x).max(MIN_SQUARED_NORM as f32);
            let factor = scale / squares.sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * factor * weight;
            }
        }
        if with_silu {
            silu(out);
        }
    });
    like(&x, out)
}
