//! The kernels. Each reads its large inputs once and writes its output once; arithmetic is in f32.
//!
//! Arrays are contiguous and counted in vectors of `N` elements.

use cubecl::prelude::*;

/// Sum over all elements that the units of a plane hold.
#[cube]
pub(super) fn row_sum<N: Size>(values: Vector<f32, N>) -> f32 {
    plane_sum(vector_sum(values))
}

/// Tells all planes of a cube what each of them has found: `shared` holds one value per plane then,
/// and is used once.
#[cube]
pub(super) fn exchange(value: f32, shared: &mut SharedMemory<f32>) {
    if UNIT_POS_X == 0 {
        shared[UNIT_POS_Y as usize] = value;
    }
    sync_cube();
}

/// Sum over the planes of a cube of what each plane has summed. `shared` is used once.
#[cube]
pub(super) fn cube_sum(
    value: f32,
    shared: &mut SharedMemory<f32>,
    #[comptime] planes: usize,
) -> f32 {
    let mut sum = value;
    if comptime!(planes > 1) {
        exchange(value, shared);
        sum = shared[0];
        #[unroll]
        for i in 1..planes {
            sum += shared[i];
        }
    }
    sum
}

/// How a row is cut for [`layer_norm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RowCut {
    /// Units of a plane.
    pub(super) plane: usize,
    /// Planes of a cube, which takes one row.
    pub(super) planes: usize,
    /// Vectors of the row that a unit keeps in registers.
    pub(super) vectors_per_unit: usize,
}

/// Normalises rows to mean 0 and variance 1, then `· weight + bias` of the row's group.
///
/// `x` and `out` are `[rows, C]`, `weight` and `bias` `[groups, C]`, each group covering
/// `rows_per_group` consecutive rows. A cube takes one row and keeps it in registers, so the
/// variance is that of the differences from the mean.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn layer_norm<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<F, N>>,
    rows: usize,
    rows_per_group: usize,
    epsilon: f32,
    #[comptime] cut: RowCut,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let step = comptime!(cut.plane * cut.planes);
    let vectors = comptime!(cut.vectors_per_unit);
    let width = comptime!(step * vectors);
    let size = N::value();
    let inverse_count = comptime!(1.0 / (width * size) as f32);
    let column = UNIT_POS as usize;
    let start = row * width + column;
    let group = row / rows_per_group * width + column;
    let mut sums = SharedMemory::<f32>::new(comptime!(cut.planes));
    let mut square_sums = SharedMemory::<f32>::new(comptime!(cut.planes));

    let mut values = Array::<Vector<F, N>>::new(vectors);
    let mut sum = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..vectors {
        values[i] = x[start + i * step];
    }
    #[unroll]
    for i in 0..vectors {
        sum += Vector::cast_from(values[i]);
    }
    let mean = cube_sum(row_sum(sum), &mut sums, cut.planes) * inverse_count;
    let mean = Vector::<f32, N>::new(mean);
    let mut squares = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..vectors {
        let difference = Vector::<f32, N>::cast_from(values[i]) - mean;
        squares += difference * difference;
    }
    let variance = cube_sum(row_sum(squares), &mut square_sums, cut.planes) * inverse_count;
    let inverse = Vector::<f32, N>::new(1.0 / (variance + epsilon).sqrt());
    #[unroll]
    for i in 0..vectors {
        let normed = (Vector::<f32, N>::cast_from(values[i]) - mean) * inverse;
        let at = group + i * step;
        out[start + i * step] = Vector::cast_from(normed * weight[at] + bias[at]);
    }
}

/// `1 + e^-x`: what SiLU divides by, and one over the sigmoid.
#[cube]
pub(super) fn one_plus_falling<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    // Not a unary minus, which cubecl's CUDA dialect has only for scalars.
    Vector::new(1.0) + Vector::exp(Vector::<f32, N>::new(0.0) - x)
}

/// Sum over the elements of a vector.
#[cube]
pub(super) fn vector_sum<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut sum = values[0];
    #[unroll]
    for i in 1..N::value() {
        sum += values[i];
    }
    sum
}

/// `x + gate · y`, where `gate` `[groups, C]` has one row for `rows_per_group` consecutive rows.
///
/// A unit takes the same column of `rows_per_unit` rows of one group, so that it reads the gate
/// once. `width` is the row length in vectors.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn gated_residual<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    y: &Array<Vector<F, N>>,
    gate: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<F, N>>,
    units: usize,
    width: usize,
    rows_per_group: usize,
    #[comptime] rows_per_unit: usize,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let column = ABSOLUTE_POS % width;
    let row = ABSOLUTE_POS / width * rows_per_unit;
    let start = row * width + column;
    let gate = gate[row / rows_per_group * width + column];

    let mut xs = Array::<Vector<F, N>>::new(rows_per_unit);
    let mut ys = Array::<Vector<F, N>>::new(rows_per_unit);
    #[unroll]
    for i in 0..rows_per_unit {
        xs[i] = x[start + i * width];
        ys[i] = y[start + i * width];
    }
    #[unroll]
    for i in 0..rows_per_unit {
        let sum = Vector::<f32, N>::cast_from(xs[i]) + gate * Vector::cast_from(ys[i]);
        out[start + i * width] = Vector::cast_from(sum);
    }
}

/// `silu(a) · b`, with `silu(a)` rounded to the element type first, as two operations would.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn silu_mul<F: Float, N: Size>(
    a: &Array<Vector<F, N>>,
    b: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    #[comptime] vectors_per_unit: usize,
    #[define(F)] _dtype: StorageType,
) {
    let step = CUBE_DIM as usize;
    let start = CUBE_POS * step * vectors_per_unit + UNIT_POS as usize;
    #[unroll]
    for i in 0..vectors_per_unit {
        let at = start + i * step;
        if at < out.len() {
            let gate = Vector::<f32, N>::cast_from(a[at]);
            let gate = Vector::<F, N>::cast_from(gate / one_plus_falling(gate));
            let product = Vector::<f32, N>::cast_from(gate) * Vector::cast_from(b[at]);
            out[at] = Vector::cast_from(product);
        }
    }
}

/// The gradients of [`silu_mul`] in `a` and `b`, which take their places.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn silu_mul_backward<F: Float, N: Size>(
    a: &mut Array<Vector<F, N>>,
    b: &mut Array<Vector<F, N>>,
    d_out: &Array<Vector<F, N>>,
    #[comptime] vectors_per_unit: usize,
    #[define(F)] _dtype: StorageType,
) {
    let step = CUBE_DIM as usize;
    let start = CUBE_POS * step * vectors_per_unit + UNIT_POS as usize;
    #[unroll]
    for i in 0..vectors_per_unit {
        let at = start + i * step;
        if at < d_out.len() {
            let value = Vector::<f32, N>::cast_from(a[at]);
            let factor = Vector::<f32, N>::cast_from(b[at]);
            let gradient = Vector::<f32, N>::cast_from(d_out[at]);
            let one = Vector::<f32, N>::new(1.0);
            let gate = one / one_plus_falling(value);
            let slope = gate * (value * (one - gate) + one);
            a[at] = Vector::cast_from(gradient * factor * slope);
            b[at] = Vector::cast_from(gradient * value * gate);
        }
    }
}

/// The gradient of [`layer_norm`] in `x`: with c the differences from the mean, s the inverse
/// deviation and g = `weight · d_out`, s · (g − mean(g) − c · s² · mean(g · c)).
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn layer_norm_backward<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    d_out: &Array<Vector<F, N>>,
    d_x: &mut Array<Vector<F, N>>,
    rows: usize,
    rows_per_group: usize,
    epsilon: f32,
    #[comptime] cut: RowCut,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let step = comptime!(cut.plane * cut.planes);
    let vectors = comptime!(cut.vectors_per_unit);
    let width = comptime!(step * vectors);
    let size = N::value();
    let inverse_count = comptime!(1.0 / (width * size) as f32);
    let column = UNIT_POS as usize;
    let start = row * width + column;
    let group = row / rows_per_group * width + column;
    let mut sums = SharedMemory::<f32>::new(comptime!(cut.planes));
    let mut square_sums = SharedMemory::<f32>::new(comptime!(cut.planes));
    let mut gradient_sums = SharedMemory::<f32>::new(comptime!(cut.planes));
    let mut product_sums = SharedMemory::<f32>::new(comptime!(cut.planes));

    let mut values = Array::<Vector<F, N>>::new(vectors);
    let mut gradients = Array::<Vector<F, N>>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        values[i] = x[start + i * step];
        gradients[i] = d_out[start + i * step];
    }
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut gradient_sum = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..vectors {
        sum += Vector::cast_from(values[i]);
        gradient_sum += Vector::<f32, N>::cast_from(gradients[i]) * weight[group + i * step];
    }
    let mean = cube_sum(row_sum(sum), &mut sums, cut.planes) * inverse_count;
    let mean = Vector::<f32, N>::new(mean);
    let gradient_mean =
        cube_sum(row_sum(gradient_sum), &mut gradient_sums, cut.planes) * inverse_count;
    let mut squares = Vector::<f32, N>::new(0.0);
    let mut products = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..vectors {
        let difference = Vector::<f32, N>::cast_from(values[i]) - mean;
        squares += difference * difference;
        products +=
            Vector::<f32, N>::cast_from(gradients[i]) * weight[group + i * step] * difference;
    }
    let variance = cube_sum(row_sum(squares), &mut square_sums, cut.planes) * inverse_count;
    let along = cube_sum(row_sum(products), &mut product_sums, cut.planes) * inverse_count;
    let inverse = 1.0 / (variance + epsilon).sqrt();
    let along = Vector::<f32, N>::new(along * inverse * inverse);
    let inverse = Vector::<f32, N>::new(inverse);
    let gradient_mean = Vector::<f32, N>::new(gradient_mean);
    #[unroll]
    for i in 0..vectors {
        let difference = Vector::<f32, N>::cast_from(values[i]) - mean;
        let gradient = Vector::<f32, N>::cast_from(gradients[i]) * weight[group + i * step];
        let change = (gradient - gradient_mean - difference * along) * inverse;
        d_x[start + i * step] = Vector::cast_from(change);
    }
}
