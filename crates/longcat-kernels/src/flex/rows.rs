//! Rows of contiguous f32 on the CPU: work in parallel by rows, sums eight at a time.

use std::mem::MaybeUninit;

use burn::tensor::TensorData;
use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

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

/// `len` numbers that tasks write in parallel, `task` numbers each: where they begin, and zeros.
///
/// Memory is touched for the first time where it is filled, by all threads and shortly before it is read,
/// which `vec![0.0; len]` does on one thread.
pub(super) fn in_parallel(
    len: usize,
    task: usize,
    write: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let task = task.max(1);
    let mut out: Vec<f32> = Vec::with_capacity(len);
    let parts = out.spare_capacity_mut()[..len].par_chunks_mut(task);
    parts.enumerate().for_each(|(index, part)| {
        part.fill(MaybeUninit::new(0.0));
        // SAFETY: all of it was just filled.
        write(index * task, unsafe { part.assume_init_mut() });
    });
    // SAFETY: the parts, which are all filled, are `len` numbers.
    unsafe { out.set_len(len) };
    out
}

/// As [`each_row`], over rows of a new tensor of `len` zeros.
pub(super) fn new_rows(
    len: usize,
    [groups, width]: [usize; 2],
    body: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let rows_per_group = len / (groups * width).max(1);
    in_parallel(len, rows_per_task(width) * width, |start, rows| {
        for (row, out) in rows.chunks_exact_mut(width).enumerate() {
            let start = start + row * width;
            body(start, start / width / rows_per_group * width, out);
        }
    })
}

/// One over the root of the mean of squares.
pub(super) fn inverse_root_mean_square(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + epsilon).sqrt()
}

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
