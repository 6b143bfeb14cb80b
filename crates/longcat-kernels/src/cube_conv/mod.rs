//! Patches and weights of a convolution as matrices, on any cubecl runtime.

mod kernels;

use std::ops::Range;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use crate::conv::PatchGrid;
use kernels::Steps;

const UNITS: u32 = 256;

/// See `KernelBackend::conv3d_patches`; `multiple` is what their columns are filled up to.
pub(crate) fn patches<R: CubeRuntime>(
    x: &CubeTensor<R>,
    grid: &PatchGrid,
    lines: Range<usize>,
    multiple: usize,
) -> Option<CubeTensor<R>> {
    if !matches!(x.dtype, DType::BF16 | DType::F16 | DType::F32) {
        return None;
    }
    let [_, t, h, w, channels] = grid.input;
    let vector = x
        .client
        .io_optimized_vector_sizes(x.dtype.size())
        .find(|vector| channels.is_multiple_of(*vector) && multiple.is_multiple_of(*vector))?;
    let columns = grid.padded_columns(multiple);
    let rows = (lines.end - lines.start) * grid.output[2];
    // Concatenated frames lie in memory with gaps, which are jumped over rather than copied away.
    let strides = |x: &CubeTensor<R>| -> Option<[usize; 4]> {
        let (channel, rest) = x.meta.strides().split_last()?;
        let whole = *channel == 1 && rest.iter().all(|stride| stride.is_multiple_of(vector));
        let strides: [usize; 4] = rest.try_into().ok()?;
        whole.then(|| strides.map(|stride| stride / vector))
    };
    let x = match strides(x) {
        Some(_) => x.clone(),
        None => into_contiguous(x.clone()),
    };
    let [stride_b, stride_t, stride_h, stride_w] = strides(&x)?;
    let out = empty_device_contiguous_dtype(
        x.client.clone(),
        x.device.clone(),
        Shape::new([rows, columns]),
        x.dtype,
    );
    let vectors = rows * (columns / vector);
    let cubes = vectors.div_ceil(UNITS as usize);
    let [before_t, before_h, before_w] = grid.before;
    let reach = grid.input[0] * stride_b * vector;
    let larger = reach.max(x.meta.num_elements()).max(rows * columns);
    // SAFETY: units beyond the last vector end before any access; places outside the input are
    // not read.
    unsafe {
        kernels::patches::launch_unchecked::<R>(
            &x.client,
            cubecl::calculate_cube_count_elemwise(&x.client, cubes, CubeDim::new_single()),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(larger),
            vector,
            x.clone().into_array_arg(),
            out.clone().into_array_arg(),
            vectors,
            lines.start,
            t,
            h,
            w,
            channels / vector,
            stride_b,
            stride_t,
            stride_h,
            stride_w,
            grid.output[0],
            grid.output[1],
            grid.output[2],
            before_t,
            before_h,
            before_w,
            columns / vector,
            Steps {
                kernel: grid.kernel,
                stride: grid.stride,
                repeat: grid.repeat,
                spread: grid.spread,
            },
            x.dtype.into(),
        );
    }
    Some(out)
}

/// See `KernelBackend::conv3d_matrix`; columns are filled up to a multiple of `multiple`, and rows to
/// what `padded_rows` says.
pub(crate) fn matrix<R: CubeRuntime>(
    weight: &CubeTensor<R>,
    mirrored: bool,
    multiple: usize,
    padded_rows: impl Fn(usize) -> usize,
) -> Option<CubeTensor<R>> {
    if !matches!(weight.dtype, DType::BF16 | DType::F16 | DType::F32) {
        return None;
    }
    let &[out, inner, ref kernel @ ..] = &weight.meta.shape()[..] else {
        return None;
    };
    let taps = kernel.iter().product::<usize>();
    let (rows, channels) = if mirrored { (inner, out) } else { (out, inner) };
    let columns = (taps * channels).next_multiple_of(multiple);
    let weight = into_contiguous(weight.clone());
    let matrix = empty_device_contiguous_dtype(
        weight.client.clone(),
        weight.device.clone(),
        Shape::new([padded_rows(rows), columns]),
        weight.dtype,
    );
    let elements = padded_rows(rows) * columns;
    let cubes = elements.div_ceil(UNITS as usize);
    // SAFETY: units beyond the last element end before any access; what is filled up is not read.
    unsafe {
        kernels::matrix::launch_unchecked::<R>(
            &weight.client,
            cubecl::calculate_cube_count_elemwise(&weight.client, cubes, CubeDim::new_single()),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(elements),
            weight.clone().into_array_arg(),
            matrix.clone().into_array_arg(),
            elements,
            rows,
            channels,
            taps,
            columns,
            mirrored,
            weight.dtype.into(),
        );
    }
    Some(matrix)
}
