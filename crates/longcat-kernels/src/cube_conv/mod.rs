//! Patches of a convolution on any cubecl runtime.

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
    let x = into_contiguous(x.clone());
    let out = empty_device_contiguous_dtype(
        x.client.clone(),
        x.device.clone(),
        Shape::new([rows, columns]),
        x.dtype,
    );
    let vectors = rows * (columns / vector);
    let cubes = vectors.div_ceil(UNITS as usize);
    let [before_t, before_h, before_w] = grid.before;
    let larger = x.meta.num_elements().max(rows * columns);
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
