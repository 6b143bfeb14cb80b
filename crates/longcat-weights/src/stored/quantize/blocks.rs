//! Blocks of GGUF that share scales.

use half::f16;
use longcat_kernels::PackedKind;

/// Values that share a scale.
const GROUP: usize = 32;
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
    let mut fits = [(0.0, 0.0); 8];
    for (fit, group) in fits.iter_mut().zip(groups) {
        *fit = best_fit(group);
    }
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
            for (q, x) in quants.iter_mut().zip(&groups[group]) {
                let level = ((x + minimum) / scale).round_ties_even().clamp(0.0, 15.0);
                *q |= (level as u8) << (4 * half);
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

/// Scale and minimum of a group of Q4_K, neither below 0: the best of 21 tries, each of which rounds with
/// a scale near that of the range and then solves for the scale and minimum that fit the rounded values
/// best. Errors weigh more where values are large (ggml's `make_qkx2_quants`).
fn best_fit(x: &[f32; GROUP]) -> (f32, f32) {
    let largest = x
        .iter()
        .fold(f32::MIN, |most, x| if *x > most { *x } else { most });
    let mut lowest = x
        .iter()
        .fold(0.0, |least: f32, x| if *x < least { *x } else { least });
    if largest == lowest {
        return (0.0, -lowest);
    }
    let size = (sums(|i| [x[i] * x[i]])[0] / GROUP as f32).sqrt();
    let weights = x.map(|x| size + x.abs());
    let [sum_w, sum_x] = sums(|i| [weights[i], weights[i] * x[i]]);
    let error = |scale: f32, lowest: f32, levels: &[f32; GROUP]| {
        let [sum] = sums(|i| {
            let off = scale * levels[i] + lowest - x[i];
            [weights[i] * (off * off)]
        });
        sum
    };

    let mut scale = (largest - lowest) / 15.0;
    let mut least = error(
        scale,
        lowest,
        &rounded(x, 15.0 / (largest - lowest), lowest),
    );
    for step in 0..=20 {
        let per_unit = (-1.0 + 0.1 * step as f32 + 15.0) / (largest - lowest);
        let levels = rounded(x, per_unit, lowest);
        let [sum_l, sum_l2, sum_xl] = sums(|i| {
            let weighted = weights[i] * levels[i];
            [weighted, weighted * levels[i], weighted * x[i]]
        });
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant.is_nan() || determinant <= 0.0 {
            continue;
        }
        let mut new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut new_lowest = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if new_lowest > 0.0 {
            new_lowest = 0.0;
            new_scale = sum_xl / sum_l2;
        }
        let new_error = error(new_scale, new_lowest, &levels);
        if new_error < least {
            (least, scale, lowest) = (new_error, new_scale, new_lowest);
        }
    }
    (scale, -lowest)
}

/// `(x − lowest) · per_unit` to whole numbers from 0 to 15, of two equally near the even one.
fn rounded(x: &[f32; GROUP], per_unit: f32, lowest: f32) -> [f32; GROUP] {
    /// Numbers above it have no fraction. Instructions for rounding are not on every processor.
    const WHOLE: f32 = 12_582_912.0;
    let mut levels = [0.0; GROUP];
    for (level, x) in levels.iter_mut().zip(x) {
        let place = per_unit * (x - lowest);
        // As instructions compare; of what is no number 0.
        let place = if place > 0.0 { place } else { 0.0 };
        let place = if place < 15.0 { place } else { 15.0 };
        *level = (place + WHOLE) - WHOLE;
    }
    levels
}

/// Sums of terms over a group, eight at a time, so that additions need not wait for one another.
#[inline(always)]
fn sums<const N: usize>(terms: impl Fn(usize) -> [f32; N]) -> [f32; N] {
    const LANES: usize = 8;
    let mut lanes = [[0.0; LANES]; N];
    for start in (0..GROUP).step_by(LANES) {
        for lane in 0..LANES {
            let terms = terms(start + lane);
            for (sums, term) in lanes.iter_mut().zip(terms) {
                sums[lane] += term;
            }
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}
