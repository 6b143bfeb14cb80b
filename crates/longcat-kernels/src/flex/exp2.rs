//! Powers of two over rows of scores, in a form that compilers turn into vector code.

use std::f32::consts::LOG2_E;

/// Enough independent lanes to fill two vectors of eight.
const LANES: usize = 16;

/// The largest value of a row; minus infinity if it is empty.
pub(super) fn max(row: &[f32]) -> f32 {
    #[inline(always)]
    fn body(row: &[f32], _: f32) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = row.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        let all = lanes.iter().chain(rest).copied();
        all.fold(f32::NEG_INFINITY, f32::max)
    }
    dispatch(row, 0.0, body)
}

/// Replaces each `x` by `2^(x - shift)`, where no `x` exceeds `shift`, and returns the sum.
pub(super) fn sub_exp2_sum(row: &mut [f32], shift: f32) -> f32 {
    #[inline(always)]
    fn body(row: &mut [f32], shift: f32) -> f32 {
        let mut lanes = [0.0; LANES];
        let mut chunks = row.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp2(*x - shift);
                *lane += *x;
            }
        }
        let mut sum: f32 = lanes.iter().sum();
        for x in chunks.into_remainder() {
            *x = exp2(*x - shift);
            sum += *x;
        }
        sum
    }
    dispatch(row, shift, body)
}

/// Replaces each `x` by `x / (1 + e^-x)`.
pub(super) fn silu(row: &mut [f32]) {
    #[inline(always)]
    fn body(row: &mut [f32], _: f32) -> f32 {
        for x in row {
            *x /= one_and_exp_of_negative(*x);
        }
        0.0
    }
    dispatch(row, 0.0, body);
}

/// Replaces each `x` by `1 / (1 + e^-x)`.
pub(super) fn sigmoid(row: &mut [f32]) {
    #[inline(always)]
    fn body(row: &mut [f32], _: f32) -> f32 {
        for x in row {
            *x = 1.0 / one_and_exp_of_negative(*x);
        }
        0.0
    }
    dispatch(row, 0.0, body);
}

/// `1 + e^-x`.
#[inline(always)]
fn one_and_exp_of_negative(x: f32) -> f32 {
    // Beyond that, a sigmoid is 0 or 1 in f32, or next to it.
    1.0 + exp2((x * -LOG2_E).clamp(-125.0, 125.0))
}

/// Runs a body compiled for the processor's vectors where it has them. The body must be inlined for
/// that, so it is a function and not a closure.
#[inline(always)]
fn dispatch<A>(row: A, shift: f32, body: impl Fn(A, f32) -> f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<A>(row: A, shift: f32, body: impl Fn(A, f32) -> f32) -> f32 {
            body(row, shift)
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just found.
            return unsafe { wide(row, shift, body) };
        }
    }
    body(row, shift)
}

/// `2^x` for `x <= 126`, to 2e-7 of the result; values below `2^-126` come out as that.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    /// Adding this leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -126.0 { x } else { -126.0 };
    let rounded = x + ROUND;
    let fraction = x - (rounded - ROUND);
    // Polynomial of the Cephes library for 2^x on -0.5 to 0.5.
    let mut power = 1.535_336_2e-4;
    for coefficient in [
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_5e-2,
        2.402_264_8e-1,
        6.931_472e-1,
        1.0,
    ] {
        power = power * fraction + coefficient;
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
            let error = (f64::from(exp2(x)) - want).abs() / want;
            assert!(error < 2.5e-7, "2^{x}: relative error {error:e}");
        }
        assert_eq!(exp2(0.0), 1.0);
        assert!(exp2(-1e9) < 1e-37 && exp2(f32::NEG_INFINITY) < 1e-37);
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
            let mut row: Vec<f32> = (0..len).map(|x| (x * 7 % 11) as f32).collect();
            let top = row.iter().copied().fold(0.0, f32::max);
            assert_eq!(max(&row), top);
            let want: f64 = row.iter().map(|x| f64::from(x - top).exp2()).sum();
            let sum = sub_exp2_sum(&mut row, top);
            assert!((f64::from(sum) - want).abs() < 1e-5 * want);
        }
    }
}
