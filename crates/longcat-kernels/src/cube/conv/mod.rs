//! Patches and weights of a convolution as matrices, on any cubecl runtime.

mod kernels;

use std::ops::Range;

use burn_backend::Shape;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use crate::PatchGrid;
use crate::cube::launch::{UNITS, count_cubes, like, supported, vector_sizes};
use crate::ops::matrix_shape;
use kernels::Steps;

/// See `KernelBackend::conv3d_patches`; `multiple` is what their columns are filled up to.
pub(crate) fn conv3d_patches<R: CubeRuntime>(
    x: &CubeTensor<R>,
    grid: &PatchGrid,
    lines: Range<usize>,
    multiple: usize,
) -> Option<CubeTensor<R>> {
    if !supported(x) {
        return None;
    }
    let [_, t, h, w, channels] = grid.input;
    let vector = vector_sizes(x)
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
    let out = like(&x, Shape::new([rows, columns]));
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
            count_cubes(&x, cubes),
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

/// See `KernelBackend::conv3d_matrix`; `multiple` is what its columns are filled up to.
pub(crate) fn conv3d_matrix<R: CubeRuntime>(
    weight: &CubeTensor<R>,
    mirrored: bool,
    multiple: usize,
) -> Option<CubeTensor<R>> {
    if !supported(weight) {
        return None;
    }
    let dims: [usize; 5] = weight.meta.shape()[..].try_into().ok()?;
    let [out, inner, kt, kh, kw] = dims;
    let (rows, channels) = if mirrored { (inner, out) } else { (out, inner) };
    let shape = matrix_shape(dims, mirrored, multiple);
    let weight = into_contiguous(weight.clone());
    let matrix = like(&weight, Shape::new(shape));
    let elements: usize = shape.iter().product();
    let cubes = elements.div_ceil(UNITS as usize);
    // SAFETY: units beyond the last element end before any access; what is filled up is not read.
    unsafe {
        kernels::matrix::launch_unchecked::<R>(
            &weight.client,
            count_cubes(&weight, cubes),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(elements),
            weight.clone().into_array_arg(),
            matrix.clone().into_array_arg(),
            elements,
            rows,
            channels,
            kt * kh * kw,
            shape[1],
            mirrored,
            weight.dtype.into(),
        );
    }
    Some(matrix)
}
