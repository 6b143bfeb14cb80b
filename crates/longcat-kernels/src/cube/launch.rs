//! What launches of element-wise kernels share: which tensors they take, and how work is cut.

use burn_backend::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::features::Plane;
use cubecl::prelude::*;

/// Units of a cube; enough to fill a multiprocessor with few cubes, small enough for registers.
pub(crate) const UNITS: u32 = 256;

pub(crate) fn supported<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    matches!(x.dtype, DType::BF16 | DType::F16 | DType::F32) && x.meta.num_elements() > 0
}

/// Vector sizes that the runtime loads in one piece, the widest first.
pub(crate) fn vector_sizes<R: CubeRuntime>(x: &CubeTensor<R>) -> impl Iterator<Item = usize> {
    x.client.io_optimized_vector_sizes(x.dtype.size())
}

/// Units of a plane, where the device has plane operations and planes of one size.
pub(crate) fn plane_size<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<usize> {
    let hardware = &x.client.properties().hardware;
    let plane = hardware.plane_size_min;
    let known = plane == hardware.plane_size_max && plane > 1;
    (known && x.client.features().plane.contains(Plane::Ops)).then_some(plane as usize)
}

/// Rows and width of `[.., C]`.
pub(crate) fn rows_and_width<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<(usize, usize)> {
    let &width = x.meta.shape().last()?;
    Some((x.meta.num_elements() / width.max(1), width))
}

/// A new tensor of the dtype of `x`, on its device.
pub(crate) fn like<R: CubeRuntime>(x: &CubeTensor<R>, shape: Shape) -> CubeTensor<R> {
    like_in(x, shape, x.dtype)
}

/// A new tensor on the device of `x`.
pub(crate) fn like_in<R: CubeRuntime>(
    x: &CubeTensor<R>,
    shape: Shape,
    dtype: DType,
) -> CubeTensor<R> {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

pub(crate) fn count_cubes<R: CubeRuntime>(x: &CubeTensor<R>, cubes: usize) -> CubeCount {
    cubecl::calculate_cube_count_elemwise(&x.client, cubes, CubeDim::new_single())
}
