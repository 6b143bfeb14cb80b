//! Patches: what a convolution's kernel sees at each output position, as rows of a matrix.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};
use burn_backend::tensor::FloatTensor;

use crate::portable::{from_float, into_float};
use crate::{KernelBackend, PatchGrid};

/// Portable body of [`KernelBackend::conv3d_patches`].
pub fn conv3d_patches<B: KernelBackend>(
    x: FloatTensor<B>,
    grid: &PatchGrid,
    lines: Range<usize>,
) -> FloatTensor<B> {
    let x: Tensor<B, 5> = from_float(x);
    let (device, dtype) = (x.device(), x.dtype());
    let [b, t, h, w, c] = x.dims();
    let [kt, kh, kw] = grid.kernel;
    // One position of zeros behind the input stands for all that lies outside, in lines and in
    // columns.
    let zeros = |shape: [usize; 3]| Tensor::<B, 3>::zeros(shape, (&device, dtype));
    let x = x.reshape([b * t * h, w, c]);
    let x = Tensor::cat(vec![x, zeros([1, w, c])], 0);
    let x = Tensor::cat(vec![x, zeros([b * t * h + 1, 1, c])], 1);
    let indices = |values: Vec<i64>| {
        let count = values.len();
        Tensor::<B, 1, Int>::from_data(TensorData::new(values, [count]), &device)
    };
    let columns: Vec<_> = (0..kw)
        .map(|k| {
            let place = |o| grid.place(2, o, k).unwrap_or(w) as i64;
            indices((0..grid.output[2]).map(place).collect())
        })
        .collect();
    let count = lines.end - lines.start;
    let mut taps = Vec::with_capacity(kt * kh * kw + 1);
    for (tap_t, tap_h) in (0..kt).flat_map(|t| (0..kh).map(move |h| (t, h))) {
        let place = |line| {
            let [batch, o_t, o_h] = grid.line(line);
            let row = grid.place(0, o_t, tap_t).zip(grid.place(1, o_h, tap_h));
            row.map_or(b * t * h, |(row_t, row_h)| (batch * t + row_t) * h + row_h) as i64
        };
        let rows = x
            .clone()
            .select(0, indices(lines.clone().map(place).collect()));
        taps.extend(
            columns
                .iter()
                .map(|columns| rows.clone().select(1, columns.clone())),
        );
    }
    let missing = grid.padded_columns(B::INNER_MULTIPLE) - grid.columns();
    if missing > 0 {
        taps.push(zeros([count, grid.output[2], missing]));
    }
    let patches = Tensor::cat(taps, 2);
    let width = patches.dims()[2];
    into_float(patches.reshape([count * grid.output[2], width]))
}
