//! Products of few rows with a packed weight, which is read as it is and never unpacked to memory.

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::kernels::{Scaling, decoded};
use super::{RUN, holds};
use crate::cube::launch::{
    UNITS, count_cubes, like, like_in, plane_size, rows_and_width, supported, vector_sizes,
};
use crate::{PackedKind, PackedLayout};

/// Rows up to which it is worth it, by what an H200 takes. Each weight is multiplied with every row where it is
/// decoded, so that time grows with rows, while unpacking takes the same time for any number.
const MOST_ROWS: usize = 4;

/// See `KernelBackend::linear_packed_forward`; `None` for more rows and for what the kernel does not take.
pub(crate) fn linear_of_few_rows<R: CubeRuntime>(
    x: &CubeTensor<R>,
    words: &CubeTensor<R>,
    scale: Option<&CubeTensor<R>>,
    layout: &PackedLayout,
    bias: Option<&CubeTensor<R>>,
) -> Option<CubeTensor<R>> {
    let [d_out, d_in] = layout.shape;
    let (rows, width) = rows_and_width(x)?;
    let fits = width == d_in && supported(x) && holds(words, scale, layout);
    let biased = bias.is_none_or(|bias| bias.dtype == x.dtype && bias.meta.num_elements() == d_out);
    let plane = plane_size(x)? as u32;
    if !(1..=MOST_ROWS).contains(&rows) || !fits || !biased || !UNITS.is_multiple_of(plane) {
        return None;
    }
    let vector = vector_sizes(x)
        .find(|vector| d_in.is_multiple_of(*vector) && RUN.is_multiple_of(*vector))?;
    let x = into_contiguous(x.clone());
    let words = into_contiguous(words.clone());
    let scaling = Scaling::of(scale.map(|_| layout), vector);
    // Neither is read where there is none.
    let absent = |dtype| like_in(&words, Shape::new([1]), dtype);
    let scale = match scale {
        Some(scale) => into_contiguous(scale.clone()),
        None => absent(DType::F32),
    };
    let has_bias = bias.is_some();
    let bias = match bias {
        Some(bias) => into_contiguous(bias.clone()),
        None => absent(x.dtype),
    };
    let shape = x.meta.shape();
    let leading = shape.iter().copied().take(shape.len() - 1);
    let out = like(&x, leading.chain([d_out]).collect());
    let planes = UNITS / plane;
    // SAFETY: planes beyond the last feature end before any access; words and scales are as many as the layout
    // has, and rows of vectors cover its columns exactly.
    unsafe {
        few_rows::launch_unchecked::<R>(
            &words.client,
            count_cubes(&words, d_out.div_ceil(planes as usize)),
            CubeDim::new_2d(plane, planes),
            AddressType::from_len(layout.elements().max(layout.bytes()).max(rows * d_out)),
            vector,
            words.clone().into_array_arg(),
            scale.into_array_arg(),
            x.clone().into_array_arg(),
            bias.into_array_arg(),
            out.clone().into_array_arg(),
            d_out,
            d_in / vector,
            layout.group,
            rows,
            has_bias,
            layout.kind,
            scaling,
            x.dtype.into(),
        );
    }
    Some(out)
}

/// A plane sums up one output feature of all rows, in f32, over weights that are rounded to the type of the
/// input as unpacking rounds them. `width` is the length of a row in vectors.
#[cube(launch_unchecked, address_type = "dynamic")]
fn few_rows<F: Float, N: Size>(
    words: &Array<u32>,
    scale: &Array<f32>,
    x: &Array<Vector<F, N>>,
    bias: &Array<F>,
    out: &mut Array<F>,
    d_out: usize,
    width: usize,
    group: usize,
    #[comptime] rows: usize,
    #[comptime] has_bias: bool,
    #[comptime] kind: PackedKind,
    #[comptime] scaling: Scaling,
    #[define(F)] _dtype: StorageType,
) {
    let feature = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if feature >= d_out {
        terminate!();
    }
    let size = N::value();
    let step = CUBE_DIM_X as usize;
    let start = feature * width;
    let mut sums = Array::<Vector<f32, N>>::new(rows);
    #[unroll]
    for row in 0..rows {
        sums[row] = Vector::<f32, N>::new(0.0);
    }
    let mut at = UNIT_POS_X as usize;
    while at < width {
        let values = decoded::<N>(words, scale, (start + at) * size, group, kind, scaling);
        let values = Vector::<f32, N>::cast_from(Vector::<F, N>::cast_from(values));
        #[unroll]
        for row in 0..rows {
            sums[row] += values * Vector::<f32, N>::cast_from(x[row * width + at]);
        }
        at += step;
    }
    #[unroll]
    for row in 0..rows {
        let own = sums[row];
        let mut sum = own[0];
        #[unroll]
        for i in 1..size {
            sum += own[i];
        }
        let mut sum = plane_sum(sum);
        if UNIT_POS_X == 0 {
            if comptime!(has_bias) {
                sum += f32::cast_from(bias[feature]);
            }
            out[row * d_out + feature] = F::cast_from(sum);
        }
    }
}
