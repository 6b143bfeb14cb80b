//! Convolutions as matrix products over gathered patches.
//!
//! Burn's own convolution takes TF32 on CUDA, tunes every shape for minutes there, and lays its
//! input out anew on one thread on the CPU.

mod patches;

pub use patches::conv3d_patches;

use std::ops::Range;

use burn::tensor::Tensor;
#[cfg(feature = "cuda")]
use burn::tensor::backend::Backend;
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::{filled, from_float, into_float};
use crate::ops::{matrix_shape, padded_rows};
use crate::{Conv3dOptions, KernelBackend, PatchGrid, linear};

fn dims<const D: usize>(shape: &Shape) -> [usize; D] {
    shape.dims()
}

/// See [`KernelBackend::conv3d_forward`].
pub fn conv3d_forward<B: KernelBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    options: Conv3dOptions,
) -> FloatTensor<B> {
    let [out, inner, kernel @ ..] = dims::<5>(&weight.shape());
    let (weight, bias): (Tensor<B, 5>, Tensor<B, 1>) = (from_float(weight), from_float(bias));
    if options.is_linear(kernel) {
        let y: Tensor<B, 5> = linear(from_float(x), weight.reshape([out, inner]), Some(bias));
        return into_float(y);
    }
    let grid = PatchGrid::forward(dims(&x.shape()), kernel, &options);
    let matrix = B::conv3d_matrix(into_float(weight), false);
    product::<B>(x, matrix, out, Some(bias), &grid)
}

/// `y` `[B, T, H, W, O or more]` without the channels that were filled up, plus `bias` `[O]`.
#[cfg(feature = "cuda")]
pub(crate) fn add_bias<B: Backend>(y: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let (y, bias): (Tensor<B, 5>, Tensor<B, 1>) = (from_float(y), from_float(bias));
    let [out] = bias.dims();
    let y = match y.dims()[4] == out {
        true => y,
        false => y.narrow(4, 0, out),
    };
    into_float(y + bias.reshape([1, 1, 1, 1, out]))
}

/// See [`KernelBackend::conv3d_x_backward`].
pub fn conv3d_x_backward<B: KernelBackend>(
    weight: FloatTensor<B>,
    d_out: FloatTensor<B>,
    input: [usize; 5],
    options: Conv3dOptions,
) -> FloatTensor<B> {
    let [_, _, kernel @ ..] = dims::<5>(&weight.shape());
    let grid = PatchGrid::backward(input, dims(&d_out.shape()), kernel, &options);
    // Each input position meets the outputs that saw it, with the kernel mirrored.
    let channels = input[4];
    let matrix = B::conv3d_matrix(weight, true);
    let d_x = product::<B>(d_out, matrix, channels, None, &grid);
    sum_of_repeats::<B>(d_x, input, options.upsample)
}

/// The gradient in an input of shape `input`, from that in the one whose positions are each repeated `upsample`
/// times.
pub(crate) fn sum_of_repeats<B: KernelBackend>(
    d_x: FloatTensor<B>,
    input: [usize; 5],
    upsample: [usize; 3],
) -> FloatTensor<B> {
    if upsample == [1; 3] {
        return d_x;
    }
    let ([b, t, h, w, c], [ut, uh, uw]) = (input, upsample);
    let d_x: Tensor<B, 8> = from_float::<B, 5>(d_x).reshape([b, t, ut, h, uh, w, uw, c]);
    into_float(
        d_x.sum_dim(2)
            .sum_dim(4)
            .sum_dim(6)
            .reshape([b, t, h, w, c]),
    )
}

/// See [`KernelBackend::conv3d_weight_backward`].
pub fn conv3d_weight_backward<B: KernelBackend>(
    x: FloatTensor<B>,
    d_out: FloatTensor<B>,
    weight: [usize; 5],
    options: Conv3dOptions,
) -> FloatTensor<B> {
    let [out, inner, kernel @ ..] = weight;
    let grid = PatchGrid::forward(dims(&x.shape()), kernel, &options);
    let width = grid.output[2];
    let d_out: Tensor<B, 5> = from_float(d_out);
    let d_out = d_out.reshape([grid.lines() * width, out]);
    let sum = chunks::<B>(&grid, &x)
        .map(|lines| {
            let rows = (lines.end - lines.start) * width;
            let d_out = d_out.clone().narrow(0, lines.start * width, rows);
            let patches: Tensor<B, 2> = from_float(B::conv3d_patches(x.clone(), &grid, lines));
            linear(d_out.transpose(), patches.transpose(), None)
        })
        .reduce(|sum: Tensor<B, 2>, part| sum + part);
    let sum = sum.unwrap_or_else(|| unreachable!("an output has lines"));
    let [kt, kh, kw] = kernel;
    let taps: Tensor<B, 5> = sum
        .narrow(1, 0, grid.columns())
        .reshape([out, kt, kh, kw, inner]);
    into_float(taps.permute([0, 4, 1, 2, 3]))
}

/// Portable body of [`KernelBackend::conv3d_matrix`].
pub fn conv3d_matrix<B: KernelBackend>(weight: FloatTensor<B>, mirrored: bool) -> FloatTensor<B> {
    let mut weight: Tensor<B, 5> = from_float(weight);
    if mirrored {
        weight = weight.flip([2, 3, 4]).swap_dims(0, 1);
    }
    let dims = weight.dims();
    let [rows, columns] = matrix_shape(dims, false, B::INNER_MULTIPLE);
    let weight: Tensor<B, 2> = weight.permute([0, 2, 3, 4, 1]).flatten(1, 4);
    into_float(filled(filled(weight, 1, columns), 0, rows))
}

/// Patches of `x` times `matrix`, chunk by chunk, to `out` channels.
fn product<B: KernelBackend>(
    x: FloatTensor<B>,
    matrix: FloatTensor<B>,
    out: usize,
    bias: Option<Tensor<B, 1>>,
    grid: &PatchGrid,
) -> FloatTensor<B> {
    let weight: Tensor<B, 2> = from_float(matrix);
    let bias = bias.map(|bias| filled(bias, 0, padded_rows(out, B::INNER_MULTIPLE)));
    let mut parts: Vec<Tensor<B, 2>> = chunks::<B>(grid, &x)
        .map(|lines| {
            let patches = from_float(B::conv3d_patches(x.clone(), grid, lines));
            linear(patches, weight.clone(), bias.clone())
        })
        .collect();
    let y = match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
    };
    let [t, h, w] = grid.output;
    let y: Tensor<B, 5> = y.narrow(1, 0, out).reshape([grid.input[0], t, h, w, out]);
    into_float(y)
}

/// The lines of the output, in runs whose patches take at most
/// [`KernelDevice::patch_bytes`](crate::KernelDevice::patch_bytes).
fn chunks<B: KernelBackend>(
    grid: &PatchGrid,
    x: &FloatTensor<B>,
) -> impl Iterator<Item = Range<usize>> {
    let line = grid.output[2] * grid.padded_columns(B::INNER_MULTIPLE) * x.dtype().size();
    let most = (B::patch_bytes(&B::float_device(x)) / line.max(1)).max(1);
    let lines = grid.lines();
    // Equal runs: products of few sizes are planned once each.
    let each = lines.div_ceil(lines.div_ceil(most).max(1)).max(1);
    (0..lines)
        .step_by(each)
        .map(move |start| start..(start + each).min(lines))
}
