//! Backward steps of the fused operations on the CPU, for contiguous f32.

use burn::tensor::TensorData;
use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::exp2::sigmoid;
use super::fused::{
    Norm, Rotation, TASK, dot, each_row, inverse_root_mean_square, like, rows_per_task, sum,
};

/// See `KernelBackend::layer_norm_backward`.
pub(super) fn layer_norm(
    x: &FlexTensor,
    weight: &FlexTensor,
    d_out: &FlexTensor,
    epsilon: f32,
) -> FlexTensor {
    let table: [usize; 2] = weight.shape().dims();
    let width = table[1];
    let (input, gradient) = (x.storage::<f32>(), d_out.storage::<f32>());
    let weight = weight.storage::<f32>();
    let mut out = vec![0.0; input.len()];
    each_row(&mut out, table, |start, group, out| {
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
    like(x, out)
}

/// See `KernelBackend::silu_mul_backward`.
pub(super) fn silu_mul(
    a: &FlexTensor,
    b: &FlexTensor,
    d_out: &FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let (input, factor) = (a.storage::<f32>(), b.storage::<f32>());
    let gradient = d_out.storage::<f32>();
    let mut d_a = input.to_vec();
    let mut d_b = vec![0.0; input.len()];
    let tasks = d_a.par_chunks_mut(TASK).zip(d_b.par_chunks_mut(TASK));
    let tasks = tasks.zip(input.par_chunks(TASK).zip(factor.par_chunks(TASK)));
    let tasks = tasks.zip(gradient.par_chunks(TASK));
    tasks.for_each(|(((d_a, d_b), (a, b)), d_out)| {
        sigmoid(d_a);
        let inputs = a.iter().zip(b).zip(d_out);
        for ((d_a, d_b), ((a, b), d_out)) in d_a.iter_mut().zip(d_b).zip(inputs) {
            let gate = *d_a;
            *d_b = d_out * a * gate;
            *d_a = d_out * b * gate * (1.0 + a * (1.0 - gate));
        }
    });
    (like(a, d_a), like(b, d_b))
}

/// See `KernelBackend::split_heads_backward`.
pub(super) fn split_heads(
    x: &FlexTensor,
    part: usize,
    norm: Option<Norm>,
    rotation: Option<Rotation>,
    d_out: &FlexTensor,
) -> FlexTensor {
    let [batch, tokens, parts, heads, width] = x.shape().dims();
    let (input, gradient) = (x.storage::<f32>(), d_out.storage::<f32>());
    let mut out = vec![0.0; batch * tokens * heads * width];
    let of_token = out.par_chunks_mut((heads * width).max(1));
    let of_token = of_token.with_min_len(rows_per_task(heads * width));
    of_token.enumerate().for_each(|(token_of_all, out)| {
        let (b, token) = (token_of_all / tokens, token_of_all % tokens);
        for (head, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let start = ((b * heads + head) * tokens + token) * width;
            turn_back(&gradient[start..][..width], token, rotation, out);
            let Some((weight, epsilon)) = norm else {
                continue;
            };
            let start = ((token_of_all * parts + part) * heads + head) * width;
            let x = &input[start..][..width];
            let inverse = inverse_root_mean_square(x, epsilon);
            for (g, weight) in out.iter_mut().zip(weight.storage::<f32>()) {
                *g *= weight;
            }
            let along = dot(out, x, |x| x * inverse) / width as f32;
            for (g, x) in out.iter_mut().zip(x) {
                *g = (*g - x * inverse * along) * inverse;
            }
        }
    });
    FlexTensor::from_data(TensorData::new(out, [batch, tokens, heads, width]))
}

/// See `KernelBackend::head_norm_backward`.
pub(super) fn head_norm(
    x: &FlexTensor,
    part: usize,
    (weight, epsilon): Norm,
    rotation: Option<Rotation>,
    d_out: &FlexTensor,
) -> FlexTensor {
    let [batch, tokens, parts, heads, width] = x.shape().dims();
    let (input, gradient) = (x.storage::<f32>(), d_out.storage::<f32>());
    // Added up in one order however the threads take them, so that runs can be repeated.
    let of_heads: Vec<Vec<f32>> = (0..batch * heads)
        .into_par_iter()
        .map(|head_of_all| {
            let (b, head) = (head_of_all / heads, head_of_all % heads);
            let (mut sums, mut g) = (vec![0.0; width], vec![0.0; width]);
            for token in 0..tokens {
                let start = (head_of_all * tokens + token) * width;
                turn_back(&gradient[start..][..width], token, rotation, &mut g);
                let start = (((b * tokens + token) * parts + part) * heads + head) * width;
                let x = &input[start..][..width];
                let inverse = inverse_root_mean_square(x, epsilon);
                for ((sum, g), x) in sums.iter_mut().zip(&g).zip(x) {
                    *sum += g * x * inverse;
                }
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; width];
    for of_head in &of_heads {
        for (sum, of_head) in sums.iter_mut().zip(of_head) {
            *sum += of_head;
        }
    }
    like(weight, sums)
}

/// The gradient before the rotation, which is turned by the opposite angles.
fn turn_back(d_out: &[f32], token: usize, rotation: Option<Rotation>, out: &mut [f32]) {
    let Some((cos, sin)) = rotation else {
        out.copy_from_slice(d_out);
        return;
    };
    let angles = token * out.len() / 2..(token + 1) * out.len() / 2;
    let cos = &cos.storage::<f32>()[angles.clone()];
    let sin = &sin.storage::<f32>()[angles];
    let pairs = out.chunks_exact_mut(2).zip(d_out.chunks_exact(2));
    for (((out, d_out), cos), sin) in pairs.zip(cos).zip(sin) {
        out[0] = d_out[0] * cos + d_out[1] * sin;
        out[1] = d_out[1] * cos - d_out[0] * sin;
    }
}
