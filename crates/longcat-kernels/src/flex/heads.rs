//! The split into heads on the CPU, for contiguous f32, heads or tokens in parallel.

use burn::tensor::TensorData;
use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::is_f32;
use super::rows::{dot, in_parallel, inverse_root_mean_square, like, rows_per_task};

/// The tables of a split into heads, contiguous.
pub(super) struct Heads {
    norm: Option<(FlexTensor, f32)>,
    rotation: Option<(FlexTensor, FlexTensor)>,
}

impl Heads {
    /// The tables, if they and the other tensors are f32.
    pub(super) fn of(
        others: &[&FlexTensor],
        norm: Option<&(FlexTensor, f64)>,
        rotation: Option<&(FlexTensor, FlexTensor)>,
    ) -> Option<Self> {
        let tables = norm.iter().map(|(weight, _)| weight);
        let tables = tables.chain(rotation.iter().flat_map(|(cos, sin)| [cos, sin]));
        let all = tables.chain(others.iter().copied()).all(is_f32);
        all.then(|| Self {
            norm: norm.map(|(weight, epsilon)| (weight.to_contiguous(), *epsilon as f32)),
            rotation: rotation.map(|(cos, sin)| (cos.to_contiguous(), sin.to_contiguous())),
        })
    }

    pub(super) fn norm(&self) -> Option<Norm<'_>> {
        self.norm
            .as_ref()
            .map(|(weight, epsilon)| (weight, *epsilon))
    }

    pub(super) fn rotation(&self) -> Option<Rotation<'_>> {
        self.rotation.as_ref().map(|(cos, sin)| (cos, sin))
    }
}

/// Weight `[D]` and epsilon of a norm over heads.
pub(super) type Norm<'a> = (&'a FlexTensor, f32);

/// Cosines and sines `[T, D / 2]`.
pub(super) type Rotation<'a> = (&'a FlexTensor, &'a FlexTensor);

/// See `KernelBackend::split_heads_forward`.
pub(super) fn split_heads_forward(
    x: &FlexTensor,
    part: usize,
    norm: Option<Norm>,
    rotation: Option<Rotation>,
) -> FlexTensor {
    let [batch, tokens, parts, heads, width] = x.shape().dims();
    let input = x.storage::<f32>();
    let norm = norm.map(|(weight, epsilon)| (weight.storage::<f32>(), epsilon));
    let rotation = rotation.map(|(cos, sin)| (cos.storage::<f32>(), sin.storage::<f32>()));
    let task = rows_per_task(width) * width;
    let out = in_parallel(batch * heads * tokens * width, task, |start, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let row = start / width + row;
            let (head, token) = (row / tokens % heads, row % tokens);
            let place = row / (heads * tokens) * tokens + token;
            let from = ((place * parts + part) * heads + head) * width;
            out.copy_from_slice(&input[from..][..width]);
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

/// See `KernelBackend::split_heads_x_backward`.
pub(super) fn split_heads_x_backward(
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

/// See `KernelBackend::split_heads_weight_backward`.
pub(super) fn split_heads_weight_backward(
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
