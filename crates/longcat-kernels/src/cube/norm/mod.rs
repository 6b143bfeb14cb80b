//! Fused element-wise kernels for any cubecl runtime: normalisations, residuals, head layout.
//!
//! Each function answers `None` where the kernel does not apply (dtype, no plane operations, rows of a
//! layer norm that planes do not divide); the caller then takes the portable body.

mod channels;
mod elementwise;
mod heads;
mod kernels;
mod reductions;

use burn_backend::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::launch::{count_cubes, like, plane_size, rows_and_width, supported, vector_sizes};
use kernels::RowCut;

pub(crate) use channels::{rms_norm_backward, rms_norm_forward};
pub(crate) use elementwise::{
    Elements, gated_residual_forward, silu_mul_backward, silu_mul_forward,
};
pub(crate) use heads::{split_heads_forward, split_heads_weight_terms, split_heads_x_backward};
pub(crate) use reductions::{block_sums, column_sums, softmax_with_lse};

/// The most vectors that a unit keeps in registers; with more, few cubes fit on a multiprocessor.
const MAX_VECTORS: usize = 4;

/// Rows of some width cut into whole planes.
struct Rows {
    /// Elements of a vector.
    vector: usize,
    /// Units of a plane.
    plane: usize,
    /// Vectors of a row for each unit of one plane.
    per_unit: usize,
}

impl Rows {
    fn of<R: CubeRuntime>(x: &CubeTensor<R>, width: usize) -> Option<Self> {
        let plane = plane_size(x)?;
        vector_sizes(x)
            .find(|vector| width.is_multiple_of(plane * vector))
            .map(|vector| Self {
                vector,
                plane,
                per_unit: width / (plane * vector),
            })
    }
}

/// Whether `table` is `[.., width]` in f32 with a whole number of rows of `x` per row of its own.
fn groups<R: CubeRuntime>(table: &CubeTensor<R>, rows: usize, width: usize) -> Option<usize> {
    let count = table.meta.num_elements() / width;
    let fits = table.dtype == DType::F32
        && table.meta.num_elements() == count * width
        && count > 0
        && rows.is_multiple_of(count);
    fits.then_some(count)
}

/// See `KernelBackend::layer_norm_forward`.
pub(crate) fn layer_norm_forward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    bias: &CubeTensor<R>,
    epsilon: f64,
) -> Option<CubeTensor<R>> {
    let (rows, width) = rows_and_width(x)?;
    let count = groups(weight, rows, width)?;
    if !supported(x) || groups(bias, rows, width) != Some(count) {
        return None;
    }
    let (vector, cut) = row_cut(x, width)?;
    let x = into_contiguous(x.clone());
    let out = like(&x, x.meta.shape().clone());
    // SAFETY: cubes beyond the last row end before any access; the cut covers a row exactly.
    unsafe {
        kernels::layer_norm::launch_unchecked::<R>(
            &x.client,
            count_cubes(&x, rows),
            CubeDim::new_2d(cut.plane as u32, cut.planes as u32),
            AddressType::from_len(x.meta.num_elements()),
            vector,
            x.clone().into_array_arg(),
            into_contiguous(weight.clone()).into_array_arg(),
            into_contiguous(bias.clone()).into_array_arg(),
            out.clone().into_array_arg(),
            rows,
            rows / count,
            epsilon as f32,
            cut,
            x.dtype.into(),
        );
    }
    Some(out)
}

/// See `KernelBackend::layer_norm_x_backward`.
pub(crate) fn layer_norm_x_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    d_out: &CubeTensor<R>,
    epsilon: f64,
) -> Option<CubeTensor<R>> {
    let (rows, width) = rows_and_width(x)?;
    let count = groups(weight, rows, width)?;
    if !supported(x) || d_out.dtype != x.dtype || d_out.meta.shape() != x.meta.shape() {
        return None;
    }
    let (vector, cut) = row_cut(x, width)?;
    let x = into_contiguous(x.clone());
    let d_x = like(&x, x.meta.shape().clone());
    // SAFETY: as for `layer_norm_forward`.
    unsafe {
        kernels::layer_norm_backward::launch_unchecked::<R>(
            &x.client,
            count_cubes(&x, rows),
            CubeDim::new_2d(cut.plane as u32, cut.planes as u32),
            AddressType::from_len(x.meta.num_elements()),
            vector,
            x.clone().into_array_arg(),
            into_contiguous(weight.clone()).into_array_arg(),
            into_contiguous(d_out.clone()).into_array_arg(),
            d_x.clone().into_array_arg(),
            rows,
            rows / count,
            epsilon as f32,
            cut,
            x.dtype.into(),
        );
    }
    Some(d_x)
}

/// The vector size, and how a cube takes a row of `width` elements.
fn row_cut<R: CubeRuntime>(x: &CubeTensor<R>, width: usize) -> Option<(usize, RowCut)> {
    let rows = Rows::of(x, width)?;
    let most = (x.client.properties().hardware.max_units_per_cube as usize / rows.plane).min(32);
    let planes = (1..=most)
        .find(|n| rows.per_unit.is_multiple_of(*n) && rows.per_unit / n <= MAX_VECTORS)?;
    let cut = RowCut {
        plane: rows.plane,
        planes,
        vectors_per_unit: rows.per_unit / planes,
    };
    Some((rows.vector, cut))
}
