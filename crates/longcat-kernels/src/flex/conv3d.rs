//! Convolutions on the CPU in f32: the lines of the input, as they lie, times the weights of a row of taps.
//!
//! What a row of taps sees at neighbouring outputs overlaps in memory, so that lines with the zeros beside them
//! are a matrix already: nothing is gathered, and lines stay in a core's cache from one row of taps to the next.

use burn::tensor::TensorData;
use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::rows::in_parallel;
use crate::{Conv3dOptions, PatchGrid};

/// Multiplications that are worth a task of their own: about a tenth of a millisecond.
const TASK: usize = 1 << 21;

/// Outputs of a line that are worked on together, so that what they see stays in a core's cache.
const TILE: usize = 128;

/// Parts of the sum over lines in a weight's gradient. Fixed, so that sums do not depend on the processor.
const PARTS: usize = 8;

/// See `KernelBackend::conv3d_forward`. All three may have any strides.
pub(super) fn conv3d_forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    options: Conv3dOptions,
) -> FlexTensor {
    let [_, _, kernel @ ..]: [usize; 5] = weight.shape().dims();
    let grid = PatchGrid::forward(x.shape().dims(), kernel, &options);
    let bias = bias.to_contiguous();
    convolve(x, &Taps::of(weight, false), Some(bias.storage()), &grid)
}

/// The gradient in the input, which is still enlarged if the convolution enlarges it.
pub(super) fn conv3d_enlarged_x_backward(
    weight: &FlexTensor,
    d_out: &FlexTensor,
    input: [usize; 5],
    options: Conv3dOptions,
) -> FlexTensor {
    let [_, _, kernel @ ..]: [usize; 5] = weight.shape().dims();
    let grid = PatchGrid::backward(input, d_out.shape().dims(), kernel, &options);
    convolve(d_out, &Taps::of(weight, true), None, &grid)
}

/// The gradient in a weight of shape `weight`, as `[kt, kh, kw, C, O]`.
pub(super) fn conv3d_weight_backward(
    x: &FlexTensor,
    d_out: &FlexTensor,
    weight: [usize; 5],
    options: Conv3dOptions,
) -> FlexTensor {
    let [out, inner, kernel @ ..] = weight;
    let grid = PatchGrid::forward(x.shape().dims(), kernel, &options);
    let lines = Lines::of(x, &grid);
    let d_out = d_out.to_contiguous();
    let d_out: &[f32] = d_out.storage();
    let [kt, kh, kw] = kernel;
    let width = grid.output[2];
    let (columns, step) = (kw * inner, grid.stride[2] * inner);
    let of_a_tap = grid.lines() * width * columns * out;
    let parts = of_a_tap.div_ceil(TASK).clamp(1, PARTS);
    let lines_of_part = grid.lines().div_ceil(parts);

    let sums: Vec<Vec<f32>> = (0..kt * kh * parts)
        .into_par_iter()
        .map(|task| {
            let (tap, part) = (task / parts, task % parts);
            let mut sum = vec![0.0; columns * out];
            let mut seen = vec![0.0; lines.places(width) * inner];
            let first = part * lines_of_part;
            for line in first..(first + lines_of_part).min(grid.lines()) {
                let [batch, o_t, o_h] = grid.line(line);
                let row = grid
                    .place(0, o_t, tap / kh)
                    .zip(grid.place(1, o_h, tap % kh));
                let Some((t, h)) = row else { continue };
                lines.copy([batch, t, h], 0, &mut seen);
                let d_out = &d_out[line * width * out..][..width * out];
                add_product(&mut sum, d_out, &seen, [out, columns, width], [1, step]);
            }
            sum
        })
        .collect();
    let mut total = Vec::with_capacity(kt * kh * columns * out);
    for parts in sums.chunks_exact(parts) {
        let mut sum = parts[0].clone();
        for part in &parts[1..] {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        }
        total.extend(sum);
    }
    FlexTensor::from_data(TensorData::new(total, [kt, kh, kw, inner, out]))
}

/// A convolution over a grid, to `[B, T', H', W', O]`.
fn convolve(x: &FlexTensor, taps: &Taps, bias: Option<&[f32]>, grid: &PatchGrid) -> FlexTensor {
    let lines = Lines::of(x, grid);
    let [frames, height, width] = grid.output;
    let line = width * taps.out;
    let products = (width * taps.values.len()).max(1);
    let lines_of_task = TASK.div_ceil(products).min(height);
    let y = in_parallel(grid.lines() * line, lines_of_task * line, |start, y| {
        if let Some(bias) = bias {
            for y in y.chunks_exact_mut(taps.out) {
                y.copy_from_slice(bias);
            }
        }
        let (mut first, mut y) = (start / line, y);
        // Frame by frame.
        while !y.is_empty() {
            let left_of_frame = height - first % height;
            let count = (y.len() / line).min(left_of_frame);
            let (of_frame, rest) = y.split_at_mut(count * line);
            add_lines(of_frame, first, &lines, taps);
            (first, y) = (first + count, rest);
        }
    });
    let shape = [grid.input[0], frames, height, width, taps.out];
    FlexTensor::from_data(TensorData::new(y, shape))
}

/// Adds what the kernel sees to lines of one frame, of which the first is `first`.
fn add_lines(y: &mut [f32], first: usize, lines: &Lines, taps: &Taps) {
    let grid = lines.grid;
    let [batch, o_t, first_h] = grid.line(first);
    let (width, out, channels) = (grid.output[2], taps.out, grid.input[4]);
    let [taps_t, taps_h, taps_w] = grid.kernel;
    let (columns, step) = (taps_w * channels, grid.stride[2] * channels);
    let heights = first_h..first_h + y.len() / (width * out);
    let seen = |h: usize| (0..taps_h).filter_map(move |tap| grid.place(1, h, tap));
    let rows = heights.clone().flat_map(seen);
    let (Some(lowest), Some(highest)) = (rows.clone().min(), rows.max()) else {
        return;
    };
    let mut copies = Vec::new();
    for (tap_t, start) in (0..taps_t).flat_map(|t| (0..width).step_by(TILE).map(move |w| (t, w))) {
        let Some(t) = grid.place(0, o_t, tap_t) else {
            continue;
        };
        let tile = start..(start + TILE).min(width);
        let pitch = lines.places(tile.len()) * channels;
        copies.resize((highest - lowest + 1) * pitch, 0.0);
        for (row, copy) in (lowest..).zip(copies.chunks_exact_mut(pitch)) {
            lines.copy([batch, t, row], start * grid.stride[2], copy);
        }
        for (o_h, tap_h) in heights
            .clone()
            .flat_map(|h| (0..taps_h).map(move |tap| (h, tap)))
        {
            let Some(row) = grid.place(1, o_h, tap_h) else {
                continue;
            };
            let y = &mut y[((o_h - first_h) * width + start) * out..][..tile.len() * out];
            let seen = &copies[(row - lowest) * pitch..][..pitch];
            let taps = &taps.values[(tap_t * taps_h + tap_h) * columns * out..][..columns * out];
            add_product(y, taps, seen, [out, tile.len(), columns], [step, 1]);
        }
    }
}

/// Adds to `y` `[n, m]` the product of `a` `[k, m]` and `b` over `k`; `steps` lead through `b` along `n` and `k`.
fn add_product(y: &mut [f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3], steps: [usize; 2]) {
    let last = (n - 1) * steps[0] + (k - 1) * steps[1];
    assert!(y.len() == n * m && a.len() == k * m && last < b.len());
    // SAFETY: the slices hold matrices of these sizes, and that of `y` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            m as isize,
            1,
            true,
            a.as_ptr(),
            m as isize,
            1,
            b.as_ptr(),
            steps[0] as isize,
            steps[1] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// A weight as `[kt, kh, kw, C, O]`, so that each row of taps is a matrix whose columns are outputs.
struct Taps {
    values: Vec<f32>,
    out: usize,
}

impl Taps {
    /// Of `[O, C, kt, kh, kw]`; `mirrored` is that of the transposed convolution, with the taps in reverse.
    fn of(weight: &FlexTensor, mirrored: bool) -> Self {
        let mut dims: [usize; 5] = weight.shape().dims();
        let (values, layout) = (weight.storage::<f32>(), weight.layout());
        let mut strides: [isize; 5] = std::array::from_fn(|dim| layout.strides()[dim]);
        if mirrored {
            dims.swap(0, 1);
            strides.swap(0, 1);
        }
        let [out, inner, kt, kh, kw] = dims;
        // Where the weights of each tap of a frame begin. All taps of a channel are read together, since they lie
        // together.
        let places = |tap_t: usize| -> Vec<isize> {
            let of_frame = (0..kh).flat_map(|h| (0..kw).map(move |w| [tap_t, h, w]));
            let place = |mut taps: [usize; 3]| {
                if mirrored {
                    taps = std::array::from_fn(|i| dims[i + 2] - 1 - taps[i]);
                }
                let place = (0..3).map(|i| taps[i] as isize * strides[i + 2]);
                layout.start_offset() as isize + place.sum::<isize>()
            };
            of_frame.map(place).collect()
        };
        let of_frame = kh * kw * inner * out;
        let values = in_parallel(kt * of_frame, of_frame, |start, to| {
            let places = places(start / of_frame);
            for (channel, o) in (0..inner).flat_map(|c| (0..out).map(move |o| (c, o))) {
                let from = o as isize * strides[0] + channel as isize * strides[1];
                for (tap, place) in places.iter().enumerate() {
                    to[(tap * inner + channel) * out + o] = values[(from + place) as usize];
                }
            }
        });
        Self { values, out }
    }
}

/// The lines of an input, with what lies beside them.
struct Lines<'a> {
    grid: &'a PatchGrid,
    values: &'a [f32],
    start: isize,
    strides: [isize; 5],
    /// Where the places of a line are taken from: how many follow one another there, and from which position
    /// on, unless they are zero.
    runs: Vec<(usize, Option<usize>)>,
}

impl<'a> Lines<'a> {
    fn of(x: &'a FlexTensor, grid: &'a PatchGrid) -> Self {
        let layout = x.layout();
        let strides: [isize; 5] = std::array::from_fn(|dim| layout.strides()[dim]);
        let together = strides[4] == 1 && strides[3] == grid.input[4] as isize;
        let mut lines = Self {
            grid,
            values: x.storage::<f32>(),
            start: layout.start_offset() as isize,
            strides,
            runs: Vec::new(),
        };
        for place in 0..lines.places(grid.output[2]) {
            let next = grid.place(2, 0, place);
            match (lines.runs.last_mut(), next) {
                (Some((count, None)), None) => *count += 1,
                (Some((count, Some(from))), Some(next)) if together && *from + *count == next => {
                    *count += 1;
                }
                _ => lines.runs.push((1, next)),
            }
        }
        lines
    }

    /// Places that a run of outputs sees.
    fn places(&self, outputs: usize) -> usize {
        (outputs - 1) * self.grid.stride[2] + self.grid.kernel[2]
    }

    /// The places from `first` on of the line at `[B, T, H]`, all channels of each.
    fn copy(&self, [batch, t, h]: [usize; 3], first: usize, to: &mut [f32]) {
        let [of_batch, of_t, of_h, of_w, of_channel] = self.strides;
        let line = self.start + batch as isize * of_batch + t as isize * of_t + h as isize * of_h;
        let channels = self.grid.input[4];
        let (mut place, mut to) = (0, to);
        for &(count, from) in &self.runs {
            let skipped = first.saturating_sub(place).min(count);
            place += count;
            let count = (count - skipped).min(to.len() / channels);
            let (run, rest) = std::mem::take(&mut to).split_at_mut(count * channels);
            to = rest;
            if run.is_empty() {
                continue;
            }
            let Some(from) = from else {
                run.fill(0.0);
                continue;
            };
            let from = line + (from + skipped) as isize * of_w;
            if of_channel == 1 {
                let from = &self.values[from as usize..];
                run.copy_from_slice(&from[..run.len()]);
                continue;
            }
            for (channel, value) in run.iter_mut().enumerate() {
                *value = self.values[(from + channel as isize * of_channel) as usize];
            }
        }
    }
}
