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

/// What [`split_heads`] does to each head besides moving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SplitStep {
    /// Units of a plane.
    pub(super) plane: usize,
    /// Vectors of one head that a unit holds.
    pub(super) vectors_per_unit: usize,
    /// Neighbouring heads of one token that a plane takes.
    pub(super) heads_per_plane: usize,
    /// Divide by the root mean square and multiply by `weight`.
    pub(super) normed: bool,
    /// Rotate interleaved pairs of channels by the token's angles.
    pub(super) rotated: bool,
}

/// Part `part` of `x` `[B, T, parts, H, D]`, normalised and rotated, as `[B, H, T, D]`.
///
/// `weight` is `[D]`; `cos` and `sin` are `[T, D / 2]`, counted in elements. Inputs of steps left
/// out are not read. The normalised value is rounded to the element type before the rotation, as
/// separate operations would.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn split_heads<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    out: &mut Array<Vector<F, N>>,
    planes: usize,
    tokens: usize,
    heads: usize,
    parts: usize,
    part: usize,
    epsilon: f32,
    #[comptime] step: SplitStep,
    #[define(F)] _dtype: StorageType,
) {
    let index = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if index >= planes {
        terminate!();
    }
    let plane = comptime!(step.plane);
    let vectors = comptime!(step.vectors_per_unit);
    let heads_per_plane = comptime!(step.heads_per_plane);
    let width = comptime!(plane * vectors);
    let size = N::value();
    let inverse_count = comptime!(1.0 / (width * size) as f32);
    let lane = UNIT_POS_X as usize;

    let groups = heads / heads_per_plane;
    let head = index % groups * heads_per_plane;
    let token_of_all = index / groups;
    let token = token_of_all % tokens;
    let batch = token_of_all / tokens;
    let from = ((token_of_all * parts + part) * heads + head) * width + lane;
    let to = ((batch * heads + head) * tokens + token) * width + lane;

    let mut values = Array::<Vector<F, N>>::new(comptime!(heads_per_plane * vectors));
    #[unroll]
    for i in 0..comptime!(heads_per_plane * vectors) {
        values[i] = x[from + i * plane];
    }
    #[unroll]
    for h in 0..heads_per_plane {
        let mut scale = Vector::<f32, N>::new(1.0);
        if comptime!(step.normed) {
            let mut squares = Vector::<f32, N>::new(0.0);
            #[unroll]
            for i in 0..vectors {
                let value = Vector::<f32, N>::cast_from(values[comptime!(h * vectors + i)]);
                squares += value * value;
            }
            let mean = row_sum(squares) * inverse_count;
            scale = Vector::<f32, N>::new(1.0 / (mean + epsilon).sqrt());
        }
        #[unroll]
        for i in 0..vectors {
            let mut value = values[comptime!(h * vectors + i)];
            if comptime!(step.normed) {
                let normed = Vector::<f32, N>::cast_from(value) * scale * weight[lane + i * plane];
                value = Vector::cast_from(normed);
            }
            if comptime!(step.rotated) {
                let first = (token * width + lane + i * plane) * comptime!(size / 2);
                let plain = Vector::<f32, N>::cast_from(value);
                let mut turned = Vector::<f32, N>::empty();
                #[unroll]
                for pair in 0..comptime!(size / 2) {
                    let even = plain[comptime!(2 * pair)];
                    let odd = plain[comptime!(2 * pair + 1)];
                    let c = cos[first + pair];
                    let s = sin[first + pair];
                    turned[comptime!(2 * pair)] = even * c - odd * s;
                    turned[comptime!(2 * pair + 1)] = odd * c + even * s;
                }
                value = Vector::cast_from(turned);
            }
            out[to + h * tokens * width + i * plane] = value;
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

/// The gradient of [`split_heads`] in its part of `x`, as `[B, T, H, D]`, for `d_out`
/// `[B, H, T, D]`: the opposite rotation, then the gradient of the norm.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn split_heads_backward<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<f32, N>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    d_out: &Array<Vector<F, N>>,
    d_x: &mut Array<Vector<F, N>>,
    planes: usize,
    tokens: usize,
    heads: usize,
    parts: usize,
    part: usize,
    epsilon: f32,
    #[comptime] step: SplitStep,
    #[define(F)] _dtype: StorageType,
) {
    let index = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if index >= planes {
        terminate!();
    }
    let plane = comptime!(step.plane);
    let vectors = comptime!(step.vectors_per_unit);
    let heads_per_plane = comptime!(step.heads_per_plane);
    let width = comptime!(plane * vectors);
    let size = N::value();
    let inverse_count = comptime!(1.0 / (width * size) as f32);
    let lane = UNIT_POS_X as usize;

    let groups = heads / heads_per_plane;
    let head = index % groups * heads_per_plane;
    let token_of_all = index / groups;
    let token = token_of_all % tokens;
    let batch = token_of_all / tokens;
    let at_x = ((token_of_all * parts + part) * heads + head) * width + lane;
    let at_d_out = ((batch * heads + head) * tokens + token) * width + lane;
    let at_d_x = (token_of_all * heads + head) * width + lane;

    #[unroll]
    for h in 0..heads_per_plane {
        let mut gradients = Array::<Vector<f32, N>>::new(vectors);
        #[unroll]
        for i in 0..vectors {
            let plain =
                Vector::<f32, N>::cast_from(d_out[at_d_out + h * tokens * width + i * plane]);
            gradients[i] = plain;
            if comptime!(step.rotated) {
                let first = (token * width + lane + i * plane) * comptime!(size / 2);
                let mut turned = Vector::<f32, N>::empty();
                #[unroll]
                for pair in 0..comptime!(size / 2) {
                    let even = plain[comptime!(2 * pair)];
                    let odd = plain[comptime!(2 * pair + 1)];
                    let c = cos[first + pair];
                    let s = sin[first + pair];
                    turned[comptime!(2 * pair)] = even * c + odd * s;
                    turned[comptime!(2 * pair + 1)] = odd * c - even * s;
                }
                gradients[i] = turned;
            }
        }
        if comptime!(step.normed) {
            let mut values = Array::<Vector<f32, N>>::new(vectors);
            let mut squares = Vector::<f32, N>::new(0.0);
            let mut products = Vector::<f32, N>::new(0.0);
            #[unroll]
            for i in 0..vectors {
                let value = Vector::<f32, N>::cast_from(x[at_x + h * width + i * plane]);
                let gradient = gradients[i] * weight[lane + i * plane];
                squares += value * value;
                products += gradient * value;
                values[i] = value;
                gradients[i] = gradient;
            }
            let mean = row_sum(squares) * inverse_count;
            let along = row_sum(products) * inverse_count;
            let inverse = 1.0 / (mean + epsilon).sqrt();
            let along = Vector::<f32, N>::new(along * inverse * inverse);
            let inverse = Vector::<f32, N>::new(inverse);
            #[unroll]
            for i in 0..vectors {
                gradients[i] = (gradients[i] - values[i] * along) * inverse;
            }
        }
        #[unroll]
        for i in 0..vectors {
            d_x[at_d_x + h * width + i * plane] = Vector::cast_from(gradients[i]);
        }
    }
}
