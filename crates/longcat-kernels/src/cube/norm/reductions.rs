//! Sums over columns, and softmax over rows.

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::kernels::{cube_sum, exchange, row_sum};
use crate::cube::launch::{
    UNITS, count_cubes, like, like_in, plane_size, rows_and_width, supported, vector_sizes,
};

/// See `KernelBackend::column_sums`.
pub(crate) fn column_sums<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    /// Rows that a unit sums up in one pass.
    const ROWS_PER_UNIT: usize = 128;
    let (mut rows, width) = rows_and_width(x)?;
    if !supported(x) {
        return None;
    }
    let mut x = into_contiguous(x.clone());
    loop {
        let parts = rows.div_ceil(ROWS_PER_UNIT);
        let sums = like_in(&x, Shape::new([parts * width]), DType::F32);
        let cubes = (parts * width).div_ceil(UNITS as usize);
        // SAFETY: units beyond the last sum end before any access, and rows before the last.
        unsafe {
            column_sums_kernel::launch_unchecked::<R>(
                &x.client,
                count_cubes(&x, cubes),
                CubeDim::new_1d(UNITS),
                AddressType::from_len(rows * width),
                x.clone().into_array_arg(),
                sums.clone().into_array_arg(),
                rows,
                parts,
                width,
                x.dtype.into(),
            );
        }
        if parts == 1 {
            return Some(sums);
        }
        (x, rows) = (sums, parts);
    }
}

/// See `KernelBackend::block_sums`.
pub(crate) fn block_sums<R: CubeRuntime>(x: &CubeTensor<R>, block: usize) -> Option<CubeTensor<R>> {
    let (rows, width) = rows_and_width(x)?;
    if !supported(x) || !rows.is_multiple_of(block) {
        return None;
    }
    let vector = vector_sizes(x).find(|vector| width.is_multiple_of(*vector))?;
    let x = into_contiguous(x.clone());
    let sums = like_in(&x, Shape::new([rows / block, width]), DType::F32);
    let vectors = sums.meta.num_elements() / vector;
    // SAFETY: units beyond the last sum end before any access; blocks are whole.
    unsafe {
        block_sums_kernel::launch_unchecked::<R>(
            &x.client,
            count_cubes(&x, vectors.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(x.meta.num_elements()),
            vector,
            x.clone().into_array_arg(),
            sums.clone().into_array_arg(),
            vectors,
            block,
            width / vector,
            x.dtype.into(),
        );
    }
    Some(sums)
}

/// See `KernelBackend::softmax_with_lse`.
pub(crate) fn softmax_with_lse<R: CubeRuntime>(
    scores: &CubeTensor<R>,
    scale: f64,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let (rows, width) = rows_and_width(scores)?;
    let plane = plane_size(scores)? as u32;
    if scores.dtype != DType::F32 || !supported(scores) || !UNITS.is_multiple_of(plane) {
        return None;
    }
    let vector = vector_sizes(scores).find(|vector| width.is_multiple_of(*vector))?;
    let scores = into_contiguous(scores.clone());
    let weights = like(&scores, scores.meta.shape().clone());
    let shape = scores.meta.shape();
    let lse = like(
        &scores,
        shape.iter().copied().take(shape.len() - 1).collect(),
    );
    // SAFETY: cubes beyond the last row end before any access.
    unsafe {
        softmax_kernel::launch_unchecked::<R>(
            &scores.client,
            count_cubes(&scores, rows),
            CubeDim::new_2d(plane, UNITS / plane),
            AddressType::from_len(rows * width),
            vector,
            scores.clone().into_array_arg(),
            weights.clone().into_array_arg(),
            lse.clone().into_array_arg(),
            rows,
            width / vector,
            scale as f32,
            (UNITS / plane) as usize,
        );
    }
    Some((weights, lse))
}

/// The largest over the planes of a cube of what each plane has found. `shared` is used once.
#[cube]
fn cube_max(value: f32, shared: &mut SharedMemory<f32>, #[comptime] planes: usize) -> f32 {
    let mut largest = value;
    if comptime!(planes > 1) {
        exchange(value, shared);
        largest = shared[0];
        #[unroll]
        for i in 1..planes {
            largest = largest.max(shared[i]);
        }
    }
    largest
}

/// Softmax of `scores · scale` by row, and the logarithm of the sum of exponentials. A cube takes a
/// row, of `width` vectors, which it reads three times.
#[cube(launch_unchecked, address_type = "dynamic")]
fn softmax_kernel<N: Size>(
    scores: &Array<Vector<f32, N>>,
    weights: &mut Array<Vector<f32, N>>,
    lse: &mut Array<f32>,
    rows: usize,
    width: usize,
    scale: f32,
    #[comptime] planes: usize,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * width;
    let first = UNIT_POS as usize;
    let step = CUBE_DIM as usize;
    let mut maxima = SharedMemory::<f32>::new(planes);
    let mut sums = SharedMemory::<f32>::new(planes);

    let mut largest = f32::new(-3.402_823e38);
    let mut i = first;
    while i < width {
        let values = scores[start + i] * Vector::new(scale);
        #[unroll]
        for j in 0..N::value() {
            largest = largest.max(values[j]);
        }
        i += step;
    }
    let largest = cube_max(plane_max(largest), &mut maxima, planes);
    let shift = Vector::<f32, N>::new(largest);
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut i = first;
    while i < width {
        sum += Vector::exp(scores[start + i] * Vector::new(scale) - shift);
        i += step;
    }
    let sum = cube_sum(row_sum(sum), &mut sums, planes);
    let inverse = Vector::<f32, N>::new(1.0 / sum);
    let mut i = first;
    while i < width {
        let power = Vector::exp(scores[start + i] * Vector::new(scale) - shift);
        weights[start + i] = power * inverse;
        i += step;
    }
    if UNIT_POS == 0 {
        lse[row] = largest + sum.ln();
    }
}

/// Sums over runs of rows of `x` `[rows, width]`, `[parts, width]`: a unit takes one column of every
/// `parts`-th row.
#[cube(launch_unchecked, address_type = "dynamic")]
fn column_sums_kernel<F: Float>(
    x: &Array<F>,
    sums: &mut Array<f32>,
    rows: usize,
    parts: usize,
    width: usize,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= parts * width {
        terminate!();
    }
    let column = ABSOLUTE_POS % width;
    let mut row = ABSOLUTE_POS / width;
    let mut sum = f32::new(0.0);
    while row < rows {
        sum += f32::cast_from(x[row * width + column]);
        row += parts;
    }
    sums[ABSOLUTE_POS] = sum;
}

/// Sums of runs of `block` rows of `x`, whose rows are `width` vectors; a unit takes one vector of
/// one run.
#[cube(launch_unchecked, address_type = "dynamic")]
fn block_sums_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    sums: &mut Array<Vector<f32, N>>,
    vectors: usize,
    block: usize,
    width: usize,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= vectors {
        terminate!();
    }
    let first = ABSOLUTE_POS / width * block * width + ABSOLUTE_POS % width;
    let mut sum = Vector::<f32, N>::new(0.0);
    for row in 0..block {
        sum += Vector::cast_from(x[first + row * width]);
    }
    sums[ABSOLUTE_POS] = sum;
}
