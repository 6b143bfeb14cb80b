//! The fused operations on the CPU, for contiguous f32: each reads its input once, rows in parallel.

use burn::tensor::TensorData;
use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::exp2::silu;
use crate::ops::MIN_SQUARED_NORM;

/// Elements that are worth a task of their own.
pub(super) const TASK: usize = 1 << 14;

/// Rows that make about [`TASK`] elements.
pub(super) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Goes over the rows of `out` in parallel, with where each begins in tensors of its shape and where its
/// group's row begins in tables `[groups, width]`, which serve equal runs of rows.
pub(super) fn each_row(
    out: &mut [f32],
    [groups, width]: [usize; 2],
    body: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let rows_per_group = out.len() / (groups * width).max(1);
    let rows = out.par_chunks_exact_mut(width.max(1));
    let rows = rows.with_min_len(rows_per_task(width)).enumerate();
    rows.for_each(|(row, out)| body(row * width, row / rows_per_group * width, out));
}

/// One over the root of the mean of squares.
pub(super) fn inverse_root_mean_square(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + epsilon).sqrt()
}

/// Weight `[D]` and epsilon of a norm over heads.
pub(super) type Norm<'a> = (&'a FlexTensor, f32);
/// Cosines and sines `[T, D / 2]`.
pub(super) type Rotation<'a> = (&'a FlexTensor, &'a FlexTensor);

/// A tensor like `x`.
pub(super) fn like(x: &FlexTensor, values: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, x.shape()))
}

/// Eight sums at a time, so that additions need not wait for one another.
pub(super) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    let rest: f32 = rest.iter().map(|value| term(*value)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The sum of `a · term(b)`, eight at a time.
pub(super) fn dot(a: &[f32], b: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f32 = rest.map(|(a, b)| a * term(*b)).sum();
    for (a, b) in a.zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * term(*b);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// See `KernelBackend::rms_norm`.
pub(super) fn rms_norm(x: &FlexTensor, weight: &FlexTensor, with_silu: bool) -> FlexTensor {
    let (input, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let channels = weight.len();
    let scale = (channels as f32).sqrt();
    let mut out = vec![0.0; input.len()];
    let task = rows_per_task(channels) * channels;
    let tasks = out.par_chunks_mut(task).zip(input.par_chunks(task));
    tasks.for_each(|(out, x)| {
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
    like(x, out)
}

/// See `KernelBackend::grouped_layer_norm`.
pub(super) fn layer_norm(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    epsilon: f32,
) -> FlexTensor {
    let table: [usize; 2] = weight.shape().dims();
    let width = table[1];
    let (input, weight, bias) = (x.storage::<f32>(), weight.storage(), bias.storage());
    let mut out = vec![0.0; input.len()];
    each_row(&mut out, table, |start, group, out| {
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
    like(x, out)
}

/// See `KernelBackend::gated_residual`.
pub(super) fn gated_residual(x: &FlexTensor, y: &FlexTensor, gate: &FlexTensor) -> FlexTensor {
    let table: [usize; 2] = gate.shape().dims();
    let (y, gate) = (y.storage::<f32>(), gate.storage::<f32>());
    let mut out = x.storage::<f32>().to_vec();
    each_row(&mut out, table, |start, group, out| {
        for ((out, y), gate) in out.iter_mut().zip(&y[start..]).zip(&gate[group..]) {
            *out += gate * y;
        }
    });
    like(x, out)
}

/// See `KernelBackend::gated`.
pub(super) fn gated(y: &FlexTensor, gate: &FlexTensor) -> FlexTensor {
    let table: [usize; 2] = gate.shape().dims();
    let gate = gate.storage::<f32>();
    let mut out = y.storage::<f32>().to_vec();
    each_row(&mut out, table, |_, group, out| {
        for (out, gate) in out.iter_mut().zip(&gate[group..]) {
            *out *= gate;
        }
    });
    like(y, out)
}

/// See `KernelBackend::silu_mul`.
pub(super) fn silu_mul(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    let mut out = a.storage::<f32>().to_vec();
    let tasks = out.par_chunks_mut(TASK);
    let tasks = tasks.zip(b.storage::<f32>().par_chunks(TASK));
    tasks.for_each(|(out, b)| {
        silu(out);
        for (out, b) in out.iter_mut().zip(b) {
            *out *= b;
        }
    });
    like(a, out)
}

/// See `KernelBackend::split_heads`.
pub(super) fn split_heads(
    x: &FlexTensor,
    part: usize,
    norm: Option<Norm>,
    rotation: Option<Rotation>,
) -> FlexTensor {
    let [batch, tokens, parts, heads, width] = x.shape().dims();
    let input = x.storage::<f32>();
    let norm = norm.map(|(weight, epsilon)| (weight.storage::<f32>(), epsilon));
    let rotation = rotation.map(|(cos, sin)| (cos.storage::<f32>(), sin.storage::<f32>()));
    let mut out = vec![0.0; batch * heads * tokens * width];
    let of_head = out.par_chunks_mut((tokens * width).max(1));
    of_head.enumerate().for_each(|(head_of_all, out)| {
        let (b, head) = (head_of_all / heads, head_of_all % heads);
        for (token, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let start = (((b * tokens + token) * parts + part) * heads + head) * width;
            out.copy_from_slice(&input[start..][..width]);
            if let Some((weight, epsilon)) = norm {
                let factor = inverse_root_mean_square(out, epsilon);
                for (value, weight) in out.iter_mut().zip(weight) {
                    *value *= factor * weight;
                }
            }
            if let Some((cos, sin)) = rotation {
                let angles = token * width / 2..(token + 1) * width / 2;
                let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                for ((pair, cos), sin) in out.chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (even, odd) = (pair[0], pair[1]);
                    pair[0] = even * cos - odd * sin;
                    pair[1] = odd * cos + even * sin;
                }
            }
        }
    });
    FlexTensor::from_data(TensorData::new(out, [batch, heads, tokens, width]))
}
