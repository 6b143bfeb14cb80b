//! The kernels. Each reads its large inputs once and writes its output once; arithmetic is in f32.
//!
//! Arrays are contiguous and counted in vectors of `N` elements.

use cubecl::prelude::*;

use super::super::kernels::row_sum;

/// What [`split_heads`] does to each head besides moving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SplitStep {
    /// Units of a plane.
    pub(super) plane: usize,
    /// Vectors of one head, which need not fill whole planes.
    pub(super) width: usize,
    /// Neighbouring heads of one token that a plane takes.
    pub(super) heads_per_plane: usize,
    /// Divide by the root mean square and multiply by `weight`.
    pub(super) normed: bool,
    /// Rotate interleaved pairs of channels by the token's angles.
    pub(super) rotated: bool,
}

impl SplitStep {
    /// Vectors of one head that a unit holds; those beyond the head are zero.
    pub(super) fn vectors_per_unit(&self) -> usize {
        self.width.div_ceil(self.plane)
    }

    /// Whether every unit has an `i`-th vector.
    fn is_whole(&self, i: usize) -> bool {
        (i + 1) * self.plane <= self.width
    }
}

/// Whether this unit has an `i`-th vector in each head; a constant, and so no branch, if all do.
#[cube]
fn is_inside(#[comptime] i: usize, #[comptime] step: SplitStep) -> bool {
    if comptime!(step.is_whole(i)) {
        true.runtime()
    } else {
        UNIT_POS_X as usize + comptime!(i * step.plane) < comptime!(step.width)
    }
}

/// The `i`-th vector of this unit, at `at` of `values`; zero beyond the head, so that sums over the
/// plane are right.
#[cube]
fn read<F: Float, N: Size>(
    values: &Array<Vector<F, N>>,
    at: usize,
    #[comptime] i: usize,
    #[comptime] step: SplitStep,
) -> Vector<F, N> {
    if comptime!(step.is_whole(i)) {
        values[at]
    } else {
        let mut value = Vector::<F, N>::new(F::new(0.0));
        if is_inside(i, step) {
            value = values[at];
        }
        value
    }
}

/// Where a unit finds the first head of its plane.
#[derive(CubeType, Clone, Copy)]
struct HeadPlace {
    token: usize,
    /// In fused heads `[B, T, parts, H, D]`.
    fused: usize,
    /// In heads `[B, H, T, D]`.
    split: usize,
}

#[cube]
fn head_place(
    index: usize,
    tokens: usize,
    heads: usize,
    parts: usize,
    part: usize,
    #[comptime] step: SplitStep,
) -> HeadPlace {
    let heads_per_plane = comptime!(step.heads_per_plane);
    let width = comptime!(step.width);
    let lane = UNIT_POS_X as usize;
    let groups = heads / heads_per_plane;
    let head = index % groups * heads_per_plane;
    let token_of_all = index / groups;
    let token = token_of_all % tokens;
    let batch = token_of_all / tokens;
    HeadPlace {
        token,
        fused: ((token_of_all * parts + part) * heads + head) * width + lane,
        split: ((batch * heads + head) * tokens + token) * width + lane,
    }
}

/// The vectors of all heads of a plane that this unit holds, head by head. All are read at once, so
/// that the reads wait together.
#[cube]
fn read_heads<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    from: usize,
    #[comptime] step: SplitStep,
) -> Array<Vector<F, N>> {
    let vectors = comptime!(step.vectors_per_unit());
    let mut values = Array::<Vector<F, N>>::new(comptime!(step.heads_per_plane * vectors));
    #[unroll]
    for h in 0..comptime!(step.heads_per_plane) {
        #[unroll]
        for i in 0..vectors {
            let at = from + comptime!(h * step.width + i * step.plane);
            values[comptime!(h * vectors + i)] = read(x, at, i, step);
        }
    }
    values
}

/// One over the root mean square of head `h` of those that [`read_heads`] has read.
#[cube]
fn inverse_root_mean_square<F: Float, N: Size>(
    values: &Array<Vector<F, N>>,
    epsilon: f32,
    #[comptime] h: usize,
    #[comptime] step: SplitStep,
) -> Vector<f32, N> {
    let vectors = comptime!(step.vectors_per_unit());
    let size = N::value();
    let inverse_count = comptime!(1.0 / (step.width * size) as f32);
    let mut squares = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..vectors {
        let value = Vector::<f32, N>::cast_from(values[comptime!(h * vectors + i)]);
        squares += value * value;
    }
    let mean = row_sum(squares) * inverse_count;
    Vector::<f32, N>::new(1.0 / (mean + epsilon).sqrt())
}

/// The interleaved pairs of vector `at` of the tables' rows turned by its angles, or with `back` by
/// the opposite ones, which is the gradient of the former.
#[cube]
fn turn<N: Size>(
    plain: Vector<f32, N>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    at: usize,
    #[comptime] back: bool,
) -> Vector<f32, N> {
    let size = N::value();
    let first = at * comptime!(size / 2);
    let mut turned = Vector::<f32, N>::empty();
    #[unroll]
    for pair in 0..comptime!(size / 2) {
        let even = plain[comptime!(2 * pair)];
        let odd = plain[comptime!(2 * pair + 1)];
        let c = cos[first + pair];
        let s = if comptime!(back) {
            -sin[first + pair]
        } else {
            sin[first + pair]
        };
        turned[comptime!(2 * pair)] = even * c - odd * s;
        turned[comptime!(2 * pair + 1)] = odd * c + even * s;
    }
    turned
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
    let vectors = comptime!(step.vectors_per_unit());
    let width = comptime!(step.width);
    let lane = UNIT_POS_X as usize;
    let place = head_place(index, tokens, heads, parts, part, step);

    let values = read_heads(x, place.fused, step);
    #[unroll]
    for h in 0..comptime!(step.heads_per_plane) {
        let mut scale = Vector::<f32, N>::new(1.0);
        if comptime!(step.normed) {
            scale = inverse_root_mean_square(&values, epsilon, h, step);
        }
        #[unroll]
        for i in 0..vectors {
            if is_inside(i, step) {
                let mut value = values[comptime!(h * vectors + i)];
                if comptime!(step.normed) {
                    let normed =
                        Vector::<f32, N>::cast_from(value) * scale * weight[lane + i * plane];
                    value = Vector::cast_from(normed);
                }
                if comptime!(step.rotated) {
                    let at = place.token * width + lane + i * plane;
                    let plain = Vector::<f32, N>::cast_from(value);
                    value = Vector::cast_from(turn(plain, cos, sin, at, false));
                }
                out[place.split + h * tokens * width + i * plane] = value;
            }
        }
    }
}

/// The gradient that [`split_heads`] passes on below its rotation: the `i`-th vector of this unit in
/// head `h` of its plane.
#[cube]
fn read_turned_back<F: Float, N: Size>(
    d_out: &Array<Vector<F, N>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    place: HeadPlace,
    tokens: usize,
    #[comptime] h: usize,
    #[comptime] i: usize,
    #[comptime] step: SplitStep,
) -> Vector<f32, N> {
    let width = comptime!(step.width);
    let from = comptime!(i * step.plane);
    let at = place.split + h * tokens * width + from;
    let plain = Vector::<f32, N>::cast_from(read(d_out, at, i, step));
    if comptime!(step.rotated) {
        let mut turned = plain;
        if is_inside(i, step) {
            let at = place.token * width + UNIT_POS_X as usize + from;
            turned = turn(plain, cos, sin, at, true);
        }
        turned
    } else {
        plain
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
    let vectors = comptime!(step.vectors_per_unit());
    let width = comptime!(step.width);
    let size = N::value();
    let inverse_count = comptime!(1.0 / (width * size) as f32);
    let lane = UNIT_POS_X as usize;
    let place = head_place(index, tokens, heads, parts, part, step);
    let at_d_x = index * comptime!(step.heads_per_plane * width) + lane;

    #[unroll]
    for h in 0..comptime!(step.heads_per_plane) {
        let mut gradients = Array::<Vector<f32, N>>::new(vectors);
        #[unroll]
        for i in 0..vectors {
            gradients[i] = read_turned_back(d_out, cos, sin, place, tokens, h, i, step);
        }
        if comptime!(step.normed) {
            let mut values = Array::<Vector<f32, N>>::new(vectors);
            let mut squares = Vector::<f32, N>::new(0.0);
            let mut products = Vector::<f32, N>::new(0.0);
            #[unroll]
            for i in 0..vectors {
                let at = place.fused + comptime!(h * width + i * plane);
                let value = Vector::<f32, N>::cast_from(read(x, at, i, step));
                let gradient = gradients[i] * read(weight, lane + i * plane, i, step);
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
            if is_inside(i, step) {
                let at = at_d_x + comptime!(h * width + i * plane);
                d_x[at] = Vector::cast_from(gradients[i]);
            }
        }
    }
}

/// Terms of the gradient of [`split_heads`] in the weight of its norm, `[planes, D]`, to be summed
/// over planes: the normalised heads, rounded to the element type as [`split_heads`] rounds them,
/// times the gradient below the rotation, summed over the heads of a plane.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn head_norm_terms<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    d_out: &Array<Vector<F, N>>,
    terms: &mut Array<Vector<f32, N>>,
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
    let vectors = comptime!(step.vectors_per_unit());
    let place = head_place(index, tokens, heads, parts, part, step);
    let to = index * comptime!(step.width) + UNIT_POS_X as usize;

    let values = read_heads(x, place.fused, step);
    let mut sums = Array::<Vector<f32, N>>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        sums[i] = Vector::new(0.0);
    }
    #[unroll]
    for h in 0..comptime!(step.heads_per_plane) {
        let scale = inverse_root_mean_square(&values, epsilon, h, step);
        #[unroll]
        for i in 0..vectors {
            let value = Vector::<f32, N>::cast_from(values[comptime!(h * vectors + i)]);
            let normed = Vector::<F, N>::cast_from(value * scale);
            let gradient = read_turned_back(d_out, cos, sin, place, tokens, h, i, step);
            sums[i] += Vector::cast_from(normed) * gradient;
        }
    }
    #[unroll]
    for i in 0..vectors {
        if is_inside(i, step) {
            terms[to + comptime!(i * step.plane)] = sums[i];
        }
    }
}
