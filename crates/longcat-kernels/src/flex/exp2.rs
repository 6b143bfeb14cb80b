//! Powers of two over scores and rows, in a form that compilers turn into vector code.

#![allow(clippy::needless_range_loop, reason = "over arrays, see `LANES`")]

use std::f32::consts::LOG2_E;

/// Lanes that are worked on together: a vector of AVX-512, or two of AVX2.
///
/// Loops go over arrays of this length by index, which is vector code whatever a build leaves out of line;
/// iterators over pairs of slices were not, in builds of many parts.
pub(super) const LANES: usize = 16;

/// Functions compiled for each width of vectors, of which the processor's own runs; `FUSED` where it
/// multiplies and adds in one instruction. Bodies are called by name, so that they are inlined whatever their
/// size: out of line they would be compiled for no vectors at all.
macro_rules! in_vectors {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident<$fused:ident>($($arg:ident: $ty:ty),+) $body:block)+) => {$(
        $(#[$doc])*
        $vis fn $name($($arg: $ty),+) {
            #[inline(always)]
            fn body<const $fused: bool>($($arg: $ty),+) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn widest($($arg: $ty),+) {
                    body::<true>($($arg),+);
                }
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $ty),+) {
                    body::<true>($($arg),+);
                }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the feature was just found.
                    return unsafe { widest($($arg),+) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were just found.
                    return unsafe { wide($($arg),+) };
                }
            }
            // Every processor of 64-bit Arm has them.
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),+)
        }
    )+};
}

type Lanes = [f32; LANES];

/// The running state of a softmax over keys that arrive in tiles, for queries side by side.
pub(super) struct Softmax {
    /// The largest score so far of each query.
    pub tops: Vec<f32>,
    /// The sum so far of `2^(score - top)`.
    pub sums: Vec<f32>,
    /// What the last tile made of one that was summed before it, `2^(old top - top)`.
    pub corrections: Vec<f32>,
}

impl Softmax {
    /// No keys yet, for so many queries: a multiple of [`LANES`].
    pub fn new(queries: usize) -> Self {
        assert_eq!(queries % LANES, 0);
        Self {
            tops: vec![f32::NEG_INFINITY; queries],
            sums: vec![0.0; queries],
            corrections: vec![0.0; queries],
        }
    }

    /// Takes a tile of scores `[keys, queries]` and leaves `2^(score - top)` in it.
    pub fn add(&mut self, scores: &mut [f32]) {
        add_scores(self, scores);
    }
}

in_vectors! {
    /// [`Softmax::add`].
    fn add_scores<FUSED>(state: &mut Softmax, scores: &mut [f32]) {
        let queries = state.tops.len();
        let tops = state.tops.as_chunks_mut::<LANES>().0;
        let sums = state.sums.as_chunks_mut::<LANES>().0;
        let corrections = state.corrections.as_chunks_mut::<LANES>().0;
        for (group, top) in tops.iter_mut().enumerate() {
            let old = *top;
            let mut new = old;
            let first = group * LANES;
            for row in scores.chunks_exact(queries) {
                let row = &row[first..first + LANES];
                for lane in 0..LANES {
                    new[lane] = if row[lane] > new[lane] {
                        row[lane]
                    } else {
                        new[lane]
                    };
                }
            }
            let mut sum: Lanes = [0.0; LANES];
            for row in scores.chunks_exact_mut(queries) {
                let row = &mut row[first..first + LANES];
                for lane in 0..LANES {
                    let power = exp2::<FUSED>(row[lane] - new[lane]);
                    row[lane] = power;
                    sum[lane] += power;
                }
            }
            for lane in 0..LANES {
                let correction = exp2::<FUSED>(old[lane] - new[lane]);
                corrections[group][lane] = correction;
                sums[group][lane] = sums[group][lane] * correction + sum[lane];
            }
            *top = new;
        }
    }
}

in_vectors! {
    /// Replaces each `x` by `2^(x - shift)`, where no `x` exceeds `shift`.
    pub(super) fn sub_exp2<FUSED>(row: &mut [f32], shift: f32) {
        each_lane(row, |x| exp2::<FUSED>(x - shift));
    }

    /// Replaces each `x` by `x / (1 + e^-x)`.
    pub(super) fn silu<FUSED>(row: &mut [f32]) {
        each_lane(row, |x| x / one_and_exp_of_negative::<FUSED>(x));
    }

    /// Replaces each `x` by `1 / (1 + e^-x)`.
    pub(super) fn sigmoid<FUSED>(row: &mut [f32]) {
        each_lane(row, |x| 1.0 / one_and_exp_of_negative::<FUSED>(x));
    }

    /// Replaces each `a` by `a / (1 + e^-a) · b`, of rows of one length.
    pub(super) fn silu_mul<FUSED>(a: &mut [f32], b: &[f32]) {
        let (chunks, rest) = a.as_chunks_mut::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        for (index, a) in chunks.iter_mut().enumerate() {
            let b = &b_chunks[index];
            for lane in 0..LANES {
                a[lane] = a[lane] / one_and_exp_of_negative::<FUSED>(a[lane]) * b[lane];
            }
        }
        for (a, b) in rest.iter_mut().zip(b_rest) {
            *a = *a / one_and_exp_of_negative::<FUSED>(*a) * b;
        }
    }
}

#[inline(always)]
fn each_lane(row: &mut [f32], body: impl Fn(f32) -> f32) {
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            chunk[lane] = body(chunk[lane]);
        }
    }
    for x in rest {
        *x = body(*x);
    }
}

/// `1 + e^-x`.
#[inline(always)]
fn one_and_exp_of_negative<const FUSED: bool>(x: f32) -> f32 {
    // Beyond that, a sigmoid is 0 or 1 in f32, or next to it.
    1.0 + exp2::<FUSED>((x * -LOG2_E).clamp(-125.0, 125.0))
}

/// `2^x` for `x <= 126`, to 2e-7 of the result; values below `2^-126` come out as that.
#[inline(always)]
fn exp2<const FUSED: bool>(x: f32) -> f32 {
    /// Adding this leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -126.0 { x } else { -126.0 };
    let rounded = x + ROUND;
    let fraction = x - (rounded - ROUND);
    // Polynomial of the Cephes library for 2^x on -0.5 to 0.5.
    let mut power: f32 = 1.535_336_2e-4;
    for coefficient in [
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_5e-2,
        2.402_264_8e-1,
        6.931_472e-1,
        1.0,
    ] {
        power = match FUSED {
            true => power.mul_add(fraction, coefficient),
            false => power * fraction + coefficient,
        };
    }
    let exponent = f32::from_bits((rounded.to_bits().wrapping_add(127)) << 23);
    power * exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_agree_with_double_precision() {
        for step in 0..=126_000 {
            let x = -(step as f32) / 1000.0;
            let want = f64::from(x).exp2();
            for found in [exp2::<false>(x), exp2::<true>(x)] {
                let error = (f64::from(found) - want).abs() / want;
                assert!(error < 2.5e-7, "2^{x}: relative error {error:e}");
            }
        }
        assert_eq!(exp2::<true>(0.0), 1.0);
        assert_eq!(exp2::<false>(0.0), 1.0);
        assert!(exp2::<true>(-1e9) < 1e-37 && exp2::<true>(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn silu_agrees_with_double_precision() {
        let values: Vec<f32> = (-2000..2000).map(|x| x as f32 / 16.0).collect();
        let mut row = values.clone();
        silu(&mut row);
        for (x, found) in values.into_iter().zip(row) {
            let want = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(found) - want).abs();
            // The exponent x · log2(e) is rounded to 24 bits, which the power turns into a relative
            // error that grows with x.
            let relative = 5e-7 + f64::from(x.abs()) * 2.0f64.powi(-24);
            assert!(error < relative * want.abs() + 1e-30, "silu({x}): {found}");
        }
    }

    #[test]
    fn sigmoid_agrees_with_double_precision() {
        let values: Vec<f32> = (-1200..1200).map(|x| x as f32 / 16.0).collect();
        let mut row = values.clone();
        sigmoid(&mut row);
        for (x, found) in values.into_iter().zip(row) {
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            let relative = 5e-7 + f64::from(x.abs()) * 2.0f64.powi(-24);
            let error = (f64::from(found) - want).abs();
            assert!(error < relative * want, "sigmoid({x}): {found}");
        }
    }

    #[test]
    fn rows_of_any_length() {
        for len in 1..40 {
            let values: Vec<f32> = (0..len).map(|x| (x * 7 % 11) as f32 / 3.0).collect();
            let mut powers = values.clone();
            sub_exp2(&mut powers, 4.0);
            let mut gated = values.clone();
            silu_mul(&mut gated, &values);
            for ((x, power), gated) in values.iter().map(|x| f64::from(*x)).zip(powers).zip(gated) {
                let want = (x - 4.0).exp2();
                assert!((f64::from(power) - want).abs() < 1e-6 * want, "2^({x} - 4)");
                let want = x * x / (1.0 + (-x).exp());
                assert!(
                    (f64::from(gated) - want).abs() <= 1e-6 * want,
                    "silu({x})·{x}"
                );
            }
        }
    }

    #[test]
    fn a_softmax_in_tiles_is_that_of_all_keys() {
        let (queries, keys) = (2 * LANES, 24);
        let score = |key: usize, query: usize| ((key * 31 + query * 17) % 101) as f32 - 40.0;
        let mut state = Softmax::new(queries);
        let mut powers = Vec::new();
        for tile in [0..7, 7..8, 8..keys] {
            let cells = tile.flat_map(|key| (0..queries).map(move |query| score(key, query)));
            let mut tile: Vec<f32> = cells.collect();
            state.add(&mut tile);
            for (cell, power) in powers.iter_mut().enumerate() {
                *power *= state.corrections[cell % queries];
            }
            powers.extend(tile);
        }
        for query in 0..queries {
            let scores = (0..keys).map(|key| f64::from(score(key, query)));
            let top = scores.clone().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.clone().map(|score| (score - top).exp2()).sum();
            assert_eq!(f64::from(state.tops[query]), top);
            assert!((f64::from(state.sums[query]) - sum).abs() < 1e-6 * sum);
            for (key, score) in scores.enumerate() {
                let found = f64::from(powers[key * queries + query]);
                assert!((found - (score - top).exp2()).abs() < 1e-6);
            }
        }
    }
}
