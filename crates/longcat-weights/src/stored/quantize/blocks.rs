//! Blocks of GGUF that share scales.

use std::array::from_fn;

use half::f16;
use longcat_kernels::PackedKind;
use wide::f32x8;

/// Values that share a scale.
const GROUP: usize = 32;
/// Groups of a block of Q4_K, which are searched side by side.
const LANES: usize = 8;
/// The blocks of a row by `pack`, which takes the values of one and fills its bytes.
pub(super) fn row(
    values: &[f32],
    kind: PackedKind,
    bytes: &mut [u8],
    pack: impl Fn(&[f32], &mut [u8]),
) {
    let blocks = bytes.chunks_exact_mut(kind.bytes());
    for (block, values) in blocks.zip(values.chunks_exact(kind.elements())) {
        pack(values, block);
    }
}

/// Writes a scale, and gives the number that it is read as.
fn put_half(block: &mut [u8], value: f32) -> f32 {
    let half = f16::from_f32(value);
    block[..2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The scale makes the largest value 127; of two whole numbers equally near the one further from 0.
pub(super) fn q8_0(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let scale = largest / 127.0;
    put_half(block, scale);
    let inverse = inverse(scale);
    for (q, x) in block[2..].iter_mut().zip(values) {
        *q = (x * inverse).round() as i8 as u8;
    }
}

/// The scale makes the value furthest from 0 minus 8, whatever its sign.
pub(super) fn q4_0(values: &[f32], block: &mut [u8]) {
    let furthest = values.iter().fold(
        0.0,
        |most: f32, x| if x.abs() > most.abs() { *x } else { most },
    );
    let scale = furthest / -8.0;
    put_half(block, scale);
    let inverse = inverse(scale);
    let level = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(GROUP / 2);
    for ((q, low), high) in block[2..].iter_mut().zip(low).zip(high) {
        *q = level(*low) | (level(*high) << 4);
    }
}

/// Eight groups, each `scale · q − minimum` with `q` from 0 to 15, whose scales and minima are numbers of
/// six bits times one scale of the block each.
pub(super) fn q4_k(values: &[f32], block: &mut [u8]) {
    let (groups, _) = values.as_chunks::<GROUP>();
    let (groups, _) = groups.as_chunks::<LANES>();
    let groups = &groups[0];
    let fits = best_fits(groups);
    let largest = |of: fn(&(f32, f32)) -> f32| fits.iter().map(of).fold(0.0, f32::max);
    let (scale, minimum) = (largest(|fit| fit.0), largest(|fit| fit.1));
    let six_bits = |x: f32, largest: f32| {
        let per_unit = if largest > 0.0 { 63.0 / largest } else { 0.0 };
        (per_unit * x).round_ties_even().clamp(0.0, 63.0) as u8
    };
    let levels = fits.map(|fit| [six_bits(fit.0, scale), six_bits(fit.1, minimum)]);
    let (head, quants) = block.split_at_mut(16);
    let scale = put_half(head, scale / 63.0);
    let minimum = put_half(&mut head[2..], minimum / 63.0);
    put_levels(&mut head[4..], &levels);

    for (pair, quants) in quants.chunks_exact_mut(GROUP).enumerate() {
        quants.fill(0);
        for half in 0..2 {
            let group = 2 * pair + half;
            let [of_scale, of_minimum] = levels[group].map(f32::from);
            let (scale, minimum) = (scale * of_scale, minimum * of_minimum);
            if scale == 0.0 {
                continue;
            }
            let (values, _) = groups[group].as_chunks::<LANES>();
            let (quants, _) = quants.as_chunks_mut::<LANES>();
            let (scale, minimum) = (f32x8::splat(scale), f32x8::splat(minimum));
            for (quants, x) in quants.iter_mut().zip(values) {
                let levels = onto_whole((f32x8::from(*x) + minimum) / scale).to_array();
                for (q, level) in quants.iter_mut().zip(levels) {
                    *q |= (level.to_bits() as u8 & 15) << (4 * half);
                }
            }
        }
    }
}

/// Scales and minima of eight groups in twelve bytes: the first four whole with two bits of the others
/// above them, then the lower halves of the others.
fn put_levels(packed: &mut [u8], levels: &[[u8; 2]; 8]) {
    for j in 0..4 {
        let ([scale, minimum], [later_scale, later_minimum]) = (levels[j], levels[4 + j]);
        packed[j] = scale | ((later_scale >> 4) << 6);
        packed[4 + j] = minimum | ((later_minimum >> 4) << 6);
        packed[8 + j] = (later_scale & 15) | ((later_minimum & 15) << 4);
    }
}

/// Scales and minima of the eight groups of Q4_K, none below 0: of each the best of 21 tries, each of which
/// rounds with a scale near that of the range and then solves for the scale and minimum that fit the rounded
/// values best. Errors weigh more where values are large (ggml's `make_qkx2_quants`).
///
/// A lane is a group, so that eight of them are searched by the same instructions.
fn best_fits(groups: &[[f32; GROUP]; LANES]) -> [(f32, f32); LANES] {
    let x: [f32x8; GROUP] = from_fn(|i| from_fn(|lane| groups[lane][i]).into());
    let (mut largest, mut lowest) = (f32x8::splat(f32::MIN), f32x8::ZERO);
    let mut squares = f32x8::ZERO;
    for x in x {
        largest = largest.fast_max(x);
        lowest = lowest.fast_min(x);
        squares += x * x;
    }
    let even = largest.simd_eq(lowest);
    let size = (squares / f32x8::splat(GROUP as f32)).sqrt();
    let weights = x.map(|x| size + x.abs());
    let (mut sum_w, mut sum_x) = (f32x8::ZERO, f32x8::ZERO);
    for (w, x) in weights.iter().zip(x) {
        sum_w += *w;
        sum_x += *w * x;
    }
    let fifteen = f32x8::splat(15.0);
    let error = |scale: f32x8, lowest: f32x8, levels: &[f32x8; GROUP]| {
        let mut sum = f32x8::ZERO;
        for ((x, w), level) in x.iter().zip(weights).zip(levels) {
            let off = scale * *level + lowest - *x;
            sum += w * (off * off);
        }
        sum
    };

    // All values alike are their minimum.
    let mut scale = even.select(f32x8::ZERO, (largest - lowest) / fifteen);
    let per_unit = fifteen / (largest - lowest);
    let mut levels = x.map(|x| onto_whole(per_unit * (x - lowest)) - WHOLE);
    let mut least = even.select(f32x8::ZERO, error(scale, lowest, &levels));
    for step in 0..=20 {
        let steps = f32x8::splat(-1.0 + 0.1 * step as f32 + 15.0);
        let per_unit = steps / (largest - lowest);
        let [mut sum_l, mut sum_l2, mut sum_xl] = [f32x8::ZERO; 3];
        for ((level, x), w) in levels.iter_mut().zip(x).zip(weights) {
            *level = onto_whole(per_unit * (x - lowest)) - WHOLE;
            let weighted = w * *level;
            sum_l += weighted;
            sum_l2 += weighted * *level;
            sum_xl += weighted * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let free = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        // No minimum is below 0: the best scale without one.
        let bound = free.simd_gt(f32x8::ZERO);
        let new_lowest = bound.select(f32x8::ZERO, free);
        let new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let new_scale = bound.select(sum_xl / sum_l2, new_scale);
        let new_error = error(new_scale, new_lowest, &levels);
        let better = new_error.simd_lt(least) & determinant.simd_gt(f32x8::ZERO);
        least = better.select(new_error, least);
        scale = better.select(new_scale, scale);
        lowest = better.select(new_lowest, lowest);
    }
    let (scale, lowest) = (scale.to_array(), lowest.to_array());
    from_fn(|lane| (scale[lane], -lowest[lane]))
}

/// Numbers of its size have no fraction: what is added to it is rounded, of two equally near to the even one.
/// Instructions for rounding are not on every processor.
const WHOLE: f32x8 = f32x8::splat(12_582_912.0);

/// [`WHOLE`] and the nearest whole numbers from 0 to 15, which its last bits are.
#[inline(always)]
fn onto_whole(places: f32x8) -> f32x8 {
    places.fast_max(f32x8::ZERO).fast_min(f32x8::splat(15.0)) + WHOLE
}
