//! Packed weights on any cubecl runtime.

mod few_rows;
mod kernels;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use crate::PackedLayout;
use crate::cube::launch::{UNITS, count_cubes, like_in, supported, vector_sizes};
pub(crate) use few_rows::linear_of_few_rows;
use kernels::Scaling;

/// Values that share a scale in blocks of every kind.
const RUN: usize = 16;

/// Whether words and scales are as many as a layout has.
fn holds<R: CubeRuntime>(
    words: &CubeTensor<R>,
    scale: Option<&CubeTensor<R>>,
    layout: &PackedLayout,
) -> bool {
    let fits = |x: &CubeTensor<R>, dtype: DType, count: usize| {
        x.dtype == dtype && x.meta.num_elements() >= count
    };
    let scaled = scale.is_none_or(|scale| fits(scale, DType::F32, layout.scales()));
    scaled && fits(words, DType::I32, layout.words())
}

/// See `KernelBackend::unpack_weight_forward`; `None` for dtypes that the kernel does not write.
pub(crate) fn unpack_weight_forward<R: CubeRuntime>(
    words: &CubeTensor<R>,
    scale: Option<&CubeTensor<R>>,
    layout: &PackedLayout,
    dtype: DType,
) -> Option<CubeTensor<R>> {
    let out = like_in(words, Shape::new(layout.shape), dtype);
    if !supported(&out) || !holds(words, scale, layout) {
        return None;
    }
    let elements = layout.elements();
    let vector = vector_sizes(&out)
        .find(|vector| elements.is_multiple_of(*vector) && RUN.is_multiple_of(*vector))?;
    let scaling = Scaling::of(scale.map(|_| layout), vector);
    let words = into_contiguous(words.clone());
    let scale = match scale {
        Some(scale) => into_contiguous(scale.clone()),
        // Not read.
        None => like_in(&words, Shape::new([1]), DType::F32),
    };
    let vectors = elements / vector;
    // SAFETY: units beyond the last vector end before any access; words and scales are as many as the
    // layout has, whose blocks cover the output exactly.
    unsafe {
        kernels::unpack::launch_unchecked::<R>(
            &words.client,
            count_cubes(&words, vectors.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(elements.max(layout.bytes())),
            vector,
            words.clone().into_array_arg(),
            scale.into_array_arg(),
            out.clone().into_array_arg(),
            vectors,
            layout.group,
            layout.kind,
            scaling,
            dtype.into(),
        );
    }
    Some(out)
}

/// See `KernelBackend::words_of_floats`: the same memory.
pub(crate) fn words_of_floats<R: CubeRuntime>(row: CubeTensor<R>) -> CubeTensor<R> {
    let mut words = into_contiguous(row);
    words.dtype = DType::I32;
    words
}
