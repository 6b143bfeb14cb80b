//! The norm over channels of many short rows, as the VAE has it.

use burn_backend::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::kernels::{one_plus_falling, vector_sum};
use crate::cube::launch::{
    UNITS, count_cubes, like, like_in, rows_and_width, supported, vector_sizes,
};
use crate::ops::MIN_SQUARED_NORM;

/// What both directions of [`rms_norm_forward`] are launched with: the vector size and the cut.
fn rms_cut<R: CubeRuntime>(x: &CubeTensor<R>, weight: &CubeTensor<R>) -> Option<(usize, RmsCut)> {
    /// Vectors that a unit takes.
    const VECTORS_PER_UNIT: usize = 4;
    let (_, width) = rows_and_width(x)?;
    if !supported(x) || weight.dtype != DType::F32 || weight.meta.num_elements() != width {
        return None;
    }
    let vector = vector_sizes(x).find(|vector| width.is_multiple_of(*vector))?;
    let (units, width) = (UNITS as usize, width / vector);
    let cut = RmsCut {
        rows: (VECTORS_PER_UNIT * units / width).max(1),
        width,
        units,
    };
    let bytes = (cut.rows * width + 2 * cut.rows) * size_of::<f32>();
    let most = x.client.properties().hardware.max_shared_memory_size;
    (bytes <= most).then_some((vector, cut))
}

/// See `KernelBackend::rms_norm_forward`.
pub(crate) fn rms_norm_forward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    silu: bool,
) -> Option<CubeTensor<R>> {
    let (vector, cut) = rms_cut(x, weight)?;
    let vectors = x.meta.num_elements() / vector;
    let x = into_contiguous(x.clone());
    let out = like(&x, x.meta.shape().clone());
    // SAFETY: vectors beyond the last are not accessed.
    unsafe {
        rms_norm_kernel::launch_unchecked::<R>(
            &x.client,
            count_cubes(&x, vectors.div_ceil(cut.rows * cut.width)),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(x.meta.num_elements()),
            vector,
            x.clone().into_array_arg(),
            into_contiguous(weight.clone()).into_array_arg(),
            out.clone().into_array_arg(),
            vectors,
            (weight.meta.num_elements() as f32).sqrt(),
            MIN_SQUARED_NORM as f32,
            silu,
            cut,
            x.dtype.into(),
        );
    }
    Some(out)
}

/// The gradient in `x` of [`rms_norm_forward`], and in f32 the products whose sums over rows are the
/// gradient in `weight`.
pub(crate) fn rms_norm_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    d_out: &CubeTensor<R>,
    silu: bool,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let (vector, cut) = rms_cut(x, weight)?;
    if d_out.dtype != x.dtype || d_out.meta.shape() != x.meta.shape() {
        return None;
    }
    let vectors = x.meta.num_elements() / vector;
    let x = into_contiguous(x.clone());
    let d_x = like(&x, x.meta.shape().clone());
    let products = like_in(&x, x.meta.shape().clone(), DType::F32);
    // SAFETY: as for `rms_norm`.
    unsafe {
        rms_norm_backward_kernel::launch_unchecked::<R>(
            &x.client,
            count_cubes(&x, vectors.div_ceil(cut.rows * cut.width)),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(x.meta.num_elements()),
            vector,
            x.clone().into_array_arg(),
            into_contiguous(weight.clone()).into_array_arg(),
            into_contiguous(d_out.clone()).into_array_arg(),
            d_x.clone().into_array_arg(),
            products.clone().into_array_arg(),
            vectors,
            (weight.meta.num_elements() as f32).sqrt(),
            MIN_SQUARED_NORM as f32,
            silu,
            cut,
            x.dtype.into(),
        );
    }
    Some((d_x, products))
}

/// How the rows of [`rms_norm_forward`] are cut: a cube reads `rows` of `width` vectors each as one
/// run of memory, because rows are too short for a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RmsCut {
    /// Rows of a cube.
    rows: usize,
    /// Vectors of a row.
    width: usize,
    /// Units of a cube.
    units: usize,
}

/// Writes the factor of every row of the cube, `scale` over its norm, to `factors`. `parts` holds what
/// each of the cube's vectors adds to the squared norms. Ends in step.
#[cube]
fn row_factors<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    vectors: usize,
    parts: &mut SharedMemory<f32>,
    factors: &mut SharedMemory<f32>,
    scale: f32,
    min_squared_norm: f32,
    #[comptime] cut: RmsCut,
) {
    let count = comptime!(cut.rows * cut.width);
    let units = comptime!(cut.units);
    let start = CUBE_POS * count;
    let mut i = UNIT_POS as usize;
    while i < count {
        if start + i < vectors {
            let value = Vector::<f32, N>::cast_from(x[start + i]);
            parts[i] = vector_sum(value * value);
        }
        i += units;
    }
    sync_cube();
    let mut row = UNIT_POS as usize;
    while row < cut.rows {
        let sum = row_total(parts, row, cut);
        factors[row] = scale / sum.max(min_squared_norm).sqrt();
        row += units;
    }
    sync_cube();
}

/// A normed vector, and the gradient that reaches it before its weight.
#[cube]
fn normed_and_gradient<F: Float, N: Size>(
    x: Vector<F, N>,
    d_out: Vector<F, N>,
    weight: Vector<f32, N>,
    factor: f32,
    #[comptime] silu: bool,
) -> (Vector<f32, N>, Vector<f32, N>) {
    let normed = Vector::<f32, N>::cast_from(x) * Vector::new(factor);
    let mut g = Vector::<f32, N>::cast_from(d_out);
    if comptime!(silu) {
        let y = normed * weight;
        let one = Vector::<f32, N>::new(1.0);
        let s = one / one_plus_falling(y);
        // The derivative of SiLU.
        g *= s + y * s * (one - s);
    }
    (normed, g)
}

/// Sum over the parts of one row.
#[cube]
fn row_total(parts: &SharedMemory<f32>, row: usize, #[comptime] cut: RmsCut) -> f32 {
    let width = comptime!(cut.width);
    let mut sum = parts[row * width];
    for i in 1..width {
        sum += parts[row * width + i];
    }
    sum
}

/// Rows of `x` `[rows, width]` divided by their norm, times `weight · scale` by channel; then its SiLU
/// if asked for. `vectors` are those of all rows.
#[cube(launch_unchecked, address_type = "dynamic")]
fn rms_norm_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<F, N>>,
    vectors: usize,
    scale: f32,
    min_squared_norm: f32,
    #[comptime] silu: bool,
    #[comptime] cut: RmsCut,
    #[define(F)] _dtype: StorageType,
) {
    let count = comptime!(cut.rows * cut.width);
    let units = comptime!(cut.units);
    let start = CUBE_POS * count;
    let mut parts = SharedMemory::<f32>::new(count);
    let mut factors = SharedMemory::<f32>::new(comptime!(cut.rows));

    row_factors(
        x,
        vectors,
        &mut parts,
        &mut factors,
        scale,
        min_squared_norm,
        cut,
    );
    let mut i = UNIT_POS as usize;
    while i < count {
        if start + i < vectors {
            let factor = Vector::<f32, N>::new(factors[i / comptime!(cut.width)]);
            let value = Vector::<f32, N>::cast_from(x[start + i]);
            let mut value =
                Vector::<F, N>::cast_from(value * factor * weight[i % comptime!(cut.width)]);
            if comptime!(silu) {
                let gate = Vector::<f32, N>::cast_from(value);
                value = Vector::cast_from(gate / one_plus_falling(gate));
            }
            out[start + i] = value;
        }
        i += units;
    }
}

/// The gradient of [`rms_norm_forward`] in `x`, and the terms whose sums over rows are that in
/// `weight`; see the portable body for the formulas.
#[cube(launch_unchecked, address_type = "dynamic")]
fn rms_norm_backward_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    d_out: &Array<Vector<F, N>>,
    d_x: &mut Array<Vector<F, N>>,
    products: &mut Array<Vector<f32, N>>,
    vectors: usize,
    scale: f32,
    min_squared_norm: f32,
    #[comptime] silu: bool,
    #[comptime] cut: RmsCut,
    #[define(F)] _dtype: StorageType,
) {
    let count = comptime!(cut.rows * cut.width);
    let units = comptime!(cut.units);
    let start = CUBE_POS * count;
    let mut parts = SharedMemory::<f32>::new(count);
    let mut factors = SharedMemory::<f32>::new(comptime!(cut.rows));
    let mut means = SharedMemory::<f32>::new(comptime!(cut.rows));

    row_factors(
        x,
        vectors,
        &mut parts,
        &mut factors,
        scale,
        min_squared_norm,
        cut,
    );
    let mut i = UNIT_POS as usize;
    while i < count {
        if start + i < vectors {
            let weight = weight[i % comptime!(cut.width)];
            let factor = factors[i / comptime!(cut.width)];
            let (normed, g) =
                normed_and_gradient(x[start + i], d_out[start + i], weight, factor, silu);
            let product = g * normed;
            products[start + i] = product;
            parts[i] = vector_sum(product * weight);
        }
        i += units;
    }
    sync_cube();
    let mut row = UNIT_POS as usize;
    while row < cut.rows {
        // Where the norm is at its bound, it is a constant.
        let free = factors[row] < scale / min_squared_norm.sqrt();
        let mean = row_total(&parts, row, cut) / (scale * scale);
        means[row] = select(free, mean, 0.0);
        row += units;
    }
    sync_cube();
    let mut i = UNIT_POS as usize;
    while i < count {
        if start + i < vectors {
            let row = i / comptime!(cut.width);
            let weight = weight[i % comptime!(cut.width)];
            let (normed, g) =
                normed_and_gradient(x[start + i], d_out[start + i], weight, factors[row], silu);
            let along = Vector::<f32, N>::new(means[row]);
            let factor = Vector::<f32, N>::new(factors[row]);
            d_x[start + i] = Vector::cast_from((g * weight - normed * along) * factor);
        }
        i += units;
    }
}
