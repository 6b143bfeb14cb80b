//! Fused element-wise kernels for any cubecl runtime: normalisations, residuals, head layout.
//!
//! Each function answers `None` where the kernel does not apply (dtype, no plane operations, rows of a
//! layer norm that planes do not divide); the caller then takes the portable body.

mod channels;
mod heads;
mod kernels;
mod reductions;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::features::Plane;
use cubecl::ir::AddressType;
use cubecl::prelude::*;

pub(crate) use channels::{rms_norm, rms_norm_backward};
pub(crate) use heads::{head_norm_terms, split_heads, split_heads_backward};
pub(crate) use reductions::{block_sums, column_sums, softmax_with_lse};

use kernels::RowCut;

/// Units of a cube; enough to fill a multiprocessor with few cubes, small enough for registers.
pub(crate) const UNITS: u32 = 256;

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

/// Units of a plane, where the device has plane operations and planes of one size.
fn plane_size<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<usize> {
    let hardware = &x.client.properties().hardware;
    let plane = hardware.plane_size_min;
    let known = plane == hardware.plane_size_max && plane > 1;
    (known && x.client.features().plane.contains(Plane::Ops)).then_some(plane as usize)
}

/// Vector sizes that the runtime loads in one piece, the widest first.
pub(crate) fn vector_sizes<R: CubeRuntime>(x: &CubeTensor<R>) -> impl Iterator<Item = usize> {
    x.client.io_optimized_vector_sizes(x.dtype.size())
}

pub(crate) fn supported<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    matches!(x.dtype, DType::BF16 | DType::F16 | DType::F32) && x.meta.num_elements() > 0
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

/// A new tensor of the dtype of `x`, on its device.
pub(crate) fn like<R: CubeRuntime>(x: &CubeTensor<R>, shape: Shape) -> CubeTensor<R> {
    like_in(x, shape, x.dtype)
}

/// A new tensor on the device of `x`.
fn like_in<R: CubeRuntime>(x: &CubeTensor<R>, shape: Shape, dtype: DType) -> CubeTensor<R> {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

/// Rows and width of `[.., C]`.
fn rows_and_width<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<(usize, usize)> {
    let &width = x.meta.shape().last()?;
    Some((x.meta.num_elements() / width.max(1), width))
}

pub(crate) fn count_cubes<R: CubeRuntime>(x: &CubeTensor<R>, cubes: usize) -> CubeCount {
    cubecl::calculate_cube_count_elemwise(&x.client, cubes, CubeDim::new_single())
}

/// See `KernelBackend::grouped_layer_norm`.
pub(crate) fn layer_norm<R: CubeRuntime>(
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

/// See `KernelBackend::layer_norm_backward`.
pub(crate) fn layer_norm_backward<R: CubeRuntime>(
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
    // SAFETY: as for `layer_norm`.
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

/// See `KernelBackend::gated_residual`.
pub(crate) fn gated_residual<R: CubeRuntime>(
    x: &CubeTensor<R>,
    y: &CubeTensor<R>,
    gate: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let (rows, width) = rows_and_width(x)?;
    let count = groups(gate, rows, width)?;
    if !supported(x) || y.dtype != x.dtype || y.meta.shape() != x.meta.shape() {
        return None;
    }
    let vector = vector_sizes(x).find(|vector| width.is_multiple_of(*vector))?;
    let rows_per_group = rows / count;
    let rows_per_unit = [4, 2, 1]
        .into_iter()
        .find(|n| rows_per_group.is_multiple_of(*n))?;
    let units = rows / rows_per_unit * (width / vector);
    let x = into_contiguous(x.clone());
    let out = like(&x, x.meta.shape().clone());
    let cube_dim = CubeDim::new_1d(UNITS);
    // SAFETY: units beyond the last end before any access.
    unsafe {
        kernels::gated_residual::launch_unchecked::<R>(
            &x.client,
            count_cubes(&x, units.div_ceil(UNITS as usize)),
            cube_dim,
            AddressType::from_len(x.meta.num_elements()),
            vector,
            x.clone().into_array_arg(),
            into_contiguous(y.clone()).into_array_arg(),
            into_contiguous(gate.clone()).into_array_arg(),
            out.clone().into_array_arg(),
            units,
            width / vector,
            rows_per_group,
            rows_per_unit,
            x.dtype.into(),
        );
    }
    Some(out)
}

/// What [`silu_mul`] and its gradients are launched with.
pub(crate) struct Elements {
    count: usize,
    vector: usize,
}

impl Elements {
    const VECTORS_PER_UNIT: usize = 4;

    /// `None` unless all are of one shape and of one dtype that the kernels have.
    pub(crate) fn of<R: CubeRuntime>(x: &CubeTensor<R>, others: &[&CubeTensor<R>]) -> Option<Self> {
        let like_x = |y: &&CubeTensor<R>| y.dtype == x.dtype && y.meta.shape() == x.meta.shape();
        if !supported(x) || !others.iter().all(like_x) {
            return None;
        }
        let count = x.meta.num_elements();
        let vector = vector_sizes(x).find(|vector| count.is_multiple_of(*vector))?;
        Some(Self { count, vector })
    }

    fn cubes<R: CubeRuntime>(&self, x: &CubeTensor<R>) -> CubeCount {
        let per_cube = UNITS as usize * Self::VECTORS_PER_UNIT;
        count_cubes(x, (self.count / self.vector).div_ceil(per_cube))
    }
}

/// See `KernelBackend::silu_mul`.
pub(crate) fn silu_mul<R: CubeRuntime>(
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let elements = Elements::of(a, &[b])?;
    let a = into_contiguous(a.clone());
    let out = like(&a, a.meta.shape().clone());
    // SAFETY: every access is below the length of the output, which the inputs share.
    unsafe {
        kernels::silu_mul::launch_unchecked::<R>(
            &a.client,
            elements.cubes(&a),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(elements.count),
            elements.vector,
            a.clone().into_array_arg(),
            into_contiguous(b.clone()).into_array_arg(),
            out.clone().into_array_arg(),
            Elements::VECTORS_PER_UNIT,
            a.dtype.into(),
        );
    }
    Some(out)
}

/// See `KernelBackend::silu_mul_backward`; `elements` are those of all three. The gradients take the
/// places of `a` and `b` where nothing else holds those.
pub(crate) fn silu_mul_backward<R: CubeRuntime>(
    elements: &Elements,
    a: CubeTensor<R>,
    b: CubeTensor<R>,
    d_out: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let own = |x: CubeTensor<R>| {
        let x = into_contiguous(x);
        if x.can_mut() { x } else { x.copy() }
    };
    let [a, b] = [own(a), own(b)];
    // SAFETY: every access is below the length of `d_out`, which `a` and `b` share; these are no
    // others' and not each other.
    unsafe {
        kernels::silu_mul_backward::launch_unchecked::<R>(
            &a.client,
            elements.cubes(&a),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(elements.count),
            elements.vector,
            a.clone().into_array_arg(),
            b.clone().into_array_arg(),
            into_contiguous(d_out).into_array_arg(),
            Elements::VECTORS_PER_UNIT,
            a.dtype.into(),
        );
    }
    (a, b)
}
