//! Types of eight bits: both kinds of fp8, by tables of their 256 values.

/// The largest number of e4m3.
pub(crate) const LARGEST_E4M3: f32 = 448.0;

/// F8_E4M3 as PyTorch's `float8_e4m3fn`: no infinities, NaN where all bits but the sign are set.
pub(super) static E4M3: [f32; 256] = table(4, 3);

/// F8_E5M2: the upper half of an f16, with infinities and NaN.
pub(super) static E5M2: [f32; 256] = table(5, 2);

/// The values of all patterns: a sign, then `exponent` and `mantissa` bits.
const fn table(exponent: u32, mantissa: u32) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut pattern = 0;
    while pattern < 256 {
        values[pattern] = value(pattern as u32, exponent, mantissa);
        pattern += 1;
    }
    values
}

const fn value(pattern: u32, exponent_bits: u32, mantissa_bits: u32) -> f32 {
    let sign = (pattern >> 7) << 31;
    let exponent = (pattern >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = pattern & ((1 << mantissa_bits) - 1);
    let bias = (1 << (exponent_bits - 1)) - 1;
    let largest = exponent == (1 << exponent_bits) - 1;
    let special = match exponent_bits {
        4 => largest && mantissa == (1 << mantissa_bits) - 1,
        _ => largest,
    };
    if special {
        let infinite = exponent_bits != 4 && mantissa == 0;
        return f32::from_bits(sign | if infinite { 0x7f80_0000 } else { 0x7fc0_0000 });
    }
    if exponent == 0 {
        // mantissa · 2^(1 − bias − mantissa bits), exact in f32.
        let unit = f32::from_bits((127 + 1 - bias - mantissa_bits) << 23);
        let magnitude = mantissa as f32 * unit;
        return f32::from_bits(sign | magnitude.to_bits());
    }
    let mantissa = mantissa << (23 - mantissa_bits);
    f32::from_bits(sign | ((exponent + 127 - bias) << 23) | mantissa)
}

/// The nearest fp8 e4m3, of two equally near the even one; beyond the largest that, and NaN for NaN.
///
/// Without branches and in every loop's own crate, so that loops over it are ones of vector instructions.
#[inline]
pub fn to_e4m3(x: f32) -> u8 {
    /// The smallest number with a leading one.
    const SMALLEST_NORMAL: f32 = 0.015_625;
    /// Added to smaller numbers it leaves them in its low bits, rounded to their unit of 2^-9.
    const SUBNORMAL: f32 = 16_384.0;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let bits = magnitude.min(LARGEST_E4M3.to_bits());
    // 20 of 23 bits go; a carry into the exponent is what it should be.
    let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
    let normal = (rounded >> 20).wrapping_sub((127 - 7) << 3);
    // Eight units are the smallest normal number, whose pattern that is.
    let subnormal = (f32::from_bits(bits) + SUBNORMAL).to_bits() - SUBNORMAL.to_bits();
    let small = bits < SMALLEST_NORMAL.to_bits();
    let pattern = if small { subnormal } else { normal };
    let pattern = if magnitude > f32::INFINITY.to_bits() {
        0x7f
    } else {
        pattern
    };
    (((x.to_bits() >> 24) & 0x80) | pattern) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landmarks_have_the_values_of_the_standard() {
        // OCP 8-bit floating point specification, table 2.
        for (pattern, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 0.875 * 2f32.powi(-6)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(E4M3[pattern], value, "{pattern:#x}");
        }
        assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan());
        for (pattern, value) in [
            (0x01, 2f32.powi(-16)),
            (0x04, 2f32.powi(-14)),
            (0x3c, 1.0),
            (0x7b, 57344.0),
            (0xfb, -57344.0),
            (0x7c, f32::INFINITY),
        ] {
            assert_eq!(E5M2[pattern], value, "{pattern:#x}");
        }
        assert!(E5M2[0x7d].is_nan());
    }

    #[test]
    fn numbers_become_the_nearest_pattern() {
        let patterns = (0..=u8::MAX).filter(|pattern| pattern & 0x7f != 0x7f);
        for pattern in patterns {
            let value = E4M3[usize::from(pattern)];
            assert_eq!(to_e4m3(value), pattern, "{value}");
        }
        // Halfway from an even pattern to the next, and from an odd one.
        assert_eq!([to_e4m3(1.0625), to_e4m3(1.1875)], [0x38, 0x3a]);
        assert_eq!([to_e4m3(1e9), to_e4m3(-1e9)], [0x7e, 0xfe]);
        assert_eq!(to_e4m3(f32::NAN) & 0x7f, 0x7f);
    }
}
