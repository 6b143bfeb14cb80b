//! GGUF's Q4_K: the search for scales and minima, for groups side by side.

#![allow(clippy::needless_range_loop, reason = "over arrays, see `fits`")]

use super::blocks::put_half;

/// Values that share a scale and a minimum.
const GROUP: usize = 32;
/// Groups of a block.
const GROUPS: usize = 8;
/// Values of a block.
const VALUES: usize = GROUP * GROUPS;
/// Bytes of a block.
const BYTES: usize = 144;

/// The blocks of a row.
pub(super) fn row(values: &[f32], bytes: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn widest(values: &[f32], bytes: &mut [u8]) {
            pairs(values, bytes);
        }
        #[target_feature(enable = "avx2")]
        fn wide(values: &[f32], bytes: &mut [u8]) {
            pairs(values, bytes);
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just found.
            return unsafe { widest(values, bytes) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just found.
            return unsafe { wide(values, bytes) };
        }
    }
    pairs(values, bytes);
}

/// Two blocks at a time, whose sums need not wait for each other.
#[inline(always)]
fn pairs(values: &[f32], bytes: &mut [u8]) {
    let (pairs, last) = values.as_chunks::<{ 2 * VALUES }>();
    let (of_pairs, of_last) = bytes.as_chunks_mut::<{ 2 * BYTES }>();
    for i in 0..pairs.len() {
        blocks::<{ 2 * GROUPS }>(&pairs[i], &mut of_pairs[i]);
    }
    if last.len() == VALUES {
        blocks::<GROUPS>(last, of_last);
    }
}

/// The blocks of so many groups.
#[inline(always)]
fn blocks<const LANES: usize>(values: &[f32], bytes: &mut [u8]) {
    let groups = values.as_chunks::<GROUP>().0;
    let mut x = [[0.0; LANES]; GROUP];
    for lane in 0..LANES {
        for i in 0..GROUP {
            x[i][lane] = groups[lane][i];
        }
    }
    let [scales, lowest] = fits(&x);
    for block in 0..LANES / GROUPS {
        let first = block * GROUPS;
        let mut of_block = [(0.0, 0.0); GROUPS];
        for group in 0..GROUPS {
            of_block[group] = (scales[first + group], -lowest[first + group]);
        }
        let bytes = &mut bytes[block * BYTES..][..BYTES];
        write(&groups[first..][..GROUPS], &of_block, bytes);
    }
}

/// Eight groups, each `scale · q − minimum` with `q` from 0 to 15, whose scales and minima are numbers of
/// six bits times one scale of the block each.
#[inline(always)]
fn write(groups: &[[f32; GROUP]], fits: &[(f32, f32); GROUPS], block: &mut [u8]) {
    let (mut scale, mut minimum) = (0.0, 0.0);
    for fit in fits {
        scale = larger(fit.0, scale);
        minimum = larger(fit.1, minimum);
    }
    let six_bits = |x: f32, largest: f32| {
        let per_unit = if largest > 0.0 { 63.0 / largest } else { 0.0 };
        (per_unit * x).round_ties_even().clamp(0.0, 63.0) as u8
    };
    let mut levels = [[0; 2]; GROUPS];
    for group in 0..GROUPS {
        let fit = fits[group];
        levels[group] = [six_bits(fit.0, scale), six_bits(fit.1, minimum)];
    }
    let (head, quants) = block.split_at_mut(16);
    let scale = put_half(head, scale / 63.0);
    let minimum = put_half(&mut head[2..], minimum / 63.0);
    put_levels(&mut head[4..], &levels);

    let quants = quants.as_chunks_mut::<GROUP>().0;
    for pair in 0..GROUPS / 2 {
        let mut both = [[0; GROUP]; 2];
        for half in 0..2 {
            let group = 2 * pair + half;
            let [of_scale, of_minimum] = levels[group].map(f32::from);
            let (scale, minimum) = (scale * of_scale, minimum * of_minimum);
            let used = if scale == 0.0 { 0 } else { 15 };
            for i in 0..GROUP {
                let place = (groups[group][i] + minimum) / scale;
                both[half][i] = onto_whole(place).to_bits() & used;
            }
        }
        for i in 0..GROUP {
            quants[pair][i] = (both[0][i] | (both[1][i] << 4)) as u8;
        }
    }
}

/// Scales and minima of eight groups in twelve bytes: the first four whole with two bits of the others
/// above them, then the lower halves of the others.
fn put_levels(packed: &mut [u8], levels: &[[u8; 2]; GROUPS]) {
    for j in 0..4 {
        let ([scale, minimum], [later_scale, later_minimum]) = (levels[j], levels[4 + j]);
        packed[j] = scale | ((later_scale >> 4) << 6);
        packed[4 + j] = minimum | ((later_minimum >> 4) << 6);
        packed[8 + j] = (later_scale & 15) | ((later_minimum & 15) << 4);
    }
}

/// Scales of groups and their lowest values, none above 0: of each the best of 21 tries, each of which rounds
/// with a scale near that of the range and then solves for the scale and lowest value that fit the rounded values
/// best. Errors weigh more where values are large (ggml's `make_qkx2_quants`).
///
/// `x` has the values of all groups by their places. A lane is a group; loops over lanes go by index over arrays,
/// and choose without branches, which is vector code. No two operations become one, so that the bits are those of
/// any processor.
#[inline(always)]
fn fits<const LANES: usize>(x: &[[f32; LANES]; GROUP]) -> [[f32; LANES]; 2] {
    let zero = [0.0; LANES];
    let (mut largest, mut lowest, mut squares) = ([f32::MIN; LANES], zero, zero);
    for x in x {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], x[lane]);
            lowest[lane] = smaller(lowest[lane], x[lane]);
            squares[lane] += x[lane] * x[lane];
        }
    }
    let mut size = zero;
    for lane in 0..LANES {
        size[lane] = (squares[lane] / GROUP as f32).sqrt();
    }
    let mut weights = [zero; GROUP];
    let (mut sum_w, mut sum_x) = (zero, zero);
    for i in 0..GROUP {
        for lane in 0..LANES {
            let weight = size[lane] + x[i][lane].abs();
            weights[i][lane] = weight;
            sum_w[lane] += weight;
            sum_x[lane] += weight * x[i][lane];
        }
    }

    let (mut scale, mut per_unit, mut least) = (zero, zero, zero);
    for lane in 0..LANES {
        let range = largest[lane] - lowest[lane];
        // All values alike are their minimum.
        scale[lane] = choose(range == 0.0, 0.0, range / 15.0);
        per_unit[lane] = 15.0 / range;
    }
    for i in 0..GROUP {
        for lane in 0..LANES {
            let level = onto_whole(per_unit[lane] * (x[i][lane] - lowest[lane])) - WHOLE;
            let off = scale[lane] * level + lowest[lane] - x[i][lane];
            least[lane] += weights[i][lane] * (off * off);
        }
    }
    for lane in 0..LANES {
        least[lane] = choose(largest[lane] == lowest[lane], 0.0, least[lane]);
    }
    let mut levels = [zero; GROUP];
    for step in 0..=20 {
        let steps = -1.0 + 0.1 * step as f32 + 15.0;
        for lane in 0..LANES {
            per_unit[lane] = steps / (largest[lane] - lowest[lane]);
        }
        let [mut sum_l, mut sum_l2, mut sum_xl] = [zero; 3];
        for i in 0..GROUP {
            for lane in 0..LANES {
                let level = onto_whole(per_unit[lane] * (x[i][lane] - lowest[lane])) - WHOLE;
                levels[i][lane] = level;
                let weighted = weights[i][lane] * level;
                sum_l[lane] += weighted;
                sum_l2[lane] += weighted * level;
                sum_xl[lane] += weighted * x[i][lane];
            }
        }
        let [mut determinant, mut new_scale, mut new_lowest, mut error] = [zero; 4];
        for lane in 0..LANES {
            let (w, l, l2) = (sum_w[lane], sum_l[lane], sum_l2[lane]);
            let (of_x, xl) = (sum_x[lane], sum_xl[lane]);
            determinant[lane] = w * l2 - l * l;
            let free = (l2 * of_x - l * xl) / determinant[lane];
            let with_free = (w * xl - of_x * l) / determinant[lane];
            // No minimum is below 0: the best scale without one.
            new_lowest[lane] = choose(free > 0.0, 0.0, free);
            new_scale[lane] = choose(free > 0.0, xl / l2, with_free);
        }
        for i in 0..GROUP {
            for lane in 0..LANES {
                let off = new_scale[lane] * levels[i][lane] + new_lowest[lane] - x[i][lane];
                error[lane] += weights[i][lane] * (off * off);
            }
        }
        for lane in 0..LANES {
            let better = (error[lane] < least[lane]) & (determinant[lane] > 0.0);
            least[lane] = choose(better, error[lane], least[lane]);
            scale[lane] = choose(better, new_scale[lane], scale[lane]);
            lowest[lane] = choose(better, new_lowest[lane], lowest[lane]);
        }
    }
    [scale, lowest]
}

/// One of two numbers, by their bits: compilers make branches of other choices here.
#[inline(always)]
fn choose(first: bool, a: f32, b: f32) -> f32 {
    let mask = u32::from(first).wrapping_neg();
    f32::from_bits((a.to_bits() & mask) | (b.to_bits() & !mask))
}

/// The second one where neither is larger, or one is no number, as instructions of vectors have it.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// As [`larger`].
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Numbers of its size have no fraction: what is added to it is rounded, of two equally near to the even one.
/// Instructions for rounding are not on every processor.
const WHOLE: f32 = 12_582_912.0;

/// [`WHOLE`] and the nearest whole numbers from 0 to 15, which its last bits are.
#[inline(always)]
fn onto_whole(place: f32) -> f32 {
    smaller(larger(place, 0.0), 15.0) + WHOLE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of many kinds, an odd number of them.
    fn numbers() -> Vec<f32> {
        let number = |i: usize| ((i * 7919 % 509) as f32 / 254.0 - 1.0) * 0.03;
        let mut values: Vec<f32> = (0..11 * VALUES).map(number).collect();
        let (blocks, _) = values.as_chunks_mut::<VALUES>();
        blocks[0].fill(0.0);
        blocks[2].fill(-1.5);
        blocks[3].fill(2.0);
        blocks[4][..GROUP].fill(0.0);
        blocks[5].iter_mut().for_each(|x| *x = x.abs());
        blocks[6].iter_mut().for_each(|x| *x = -x.abs());
        blocks[7].iter_mut().for_each(|x| *x *= 1e-30);
        blocks[8].iter_mut().for_each(|x| *x *= 1e5);
        blocks[9].iter_mut().for_each(|x| *x *= -0.0);
        values
    }

    #[test]
    fn blocks_are_packed_alike_beside_others_and_on_all_processors() {
        let values = numbers();
        let (blocks, _) = values.as_chunks::<VALUES>();
        let of_each = |packed: fn(&[f32], &mut [u8])| {
            let mut bytes = vec![0xff; blocks.len() * BYTES];
            let places = bytes.chunks_exact_mut(BYTES).zip(blocks);
            places.for_each(|(bytes, values)| packed(values, bytes));
            bytes
        };
        let mut together = vec![0xff; blocks.len() * BYTES];
        row(&values, &mut together);
        assert!(of_each(row) == together);
        assert!(of_each(pairs) == together);
        let mut without_vectors = vec![0xff; blocks.len() * BYTES];
        pairs(&values, &mut without_vectors);
        assert!(without_vectors == together);
    }

    /// ggml's search of one group, with what it gives as scale and minimum.
    fn searched(x: &[f32; GROUP]) -> [f32; 2] {
        let mut min = x.iter().copied().fold(0.0, smaller);
        let max = x.iter().copied().fold(f32::MIN, larger);
        let size = (x.iter().fold(0.0, |sum, x| sum + x * x) / GROUP as f32).sqrt();
        let weights = x.map(|x| size + x.abs());
        let sum = |of: &dyn Fn(usize) -> f32| (0..GROUP).fold(0.0, |sum, i| sum + of(i));
        if max == min {
            return [0.0, -min];
        }
        let round = |per_unit: f32, min: f32| {
            x.map(|x| (per_unit * (x - min)).round_ties_even().clamp(0.0, 15.0))
        };
        let error = |scale: f32, min: f32, q: &[f32; GROUP]| {
            let off = |i: usize| scale * q[i] + min - x[i];
            sum(&|i| weights[i] * (off(i) * off(i)))
        };
        let (sum_w, sum_x) = (sum(&|i| weights[i]), sum(&|i| weights[i] * x[i]));
        let mut scale = (max - min) / 15.0;
        let mut least = error(scale, min, &round(15.0 / (max - min), min));
        for step in 0..=20 {
            let q = round((-1.0 + 0.1 * step as f32 + 15.0) / (max - min), min);
            let sum_l = sum(&|i| weights[i] * q[i]);
            let sum_l2 = sum(&|i| weights[i] * q[i] * q[i]);
            let sum_xl = sum(&|i| weights[i] * q[i] * x[i]);
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            if determinant <= 0.0 {
                continue;
            }
            let mut this = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                (this, this_min) = (sum_xl / sum_l2, 0.0);
            }
            let found = error(this, this_min, &q);
            if found < least {
                (least, scale, min) = (found, this, this_min);
            }
        }
        [scale, -min]
    }

    #[test]
    fn groups_are_searched_as_ggml_does_one_by_one() {
        let values = numbers();
        let (groups, _) = values.as_chunks::<GROUP>();
        let (sides, _) = groups.as_chunks::<GROUPS>();
        for groups in sides {
            let x = std::array::from_fn(|i| std::array::from_fn(|lane| groups[lane][i]));
            let [scales, lowest] = fits::<GROUPS>(&x);
            for (lane, group) in groups.iter().enumerate() {
                assert_eq!([scales[lane], -lowest[lane]], searched(group), "{group:?}");
            }
        }
    }
}
