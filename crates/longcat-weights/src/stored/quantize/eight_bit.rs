//! Values of eight bits with scales beside them.

use longcat_kernels::packed::to_e4m3;

/// The largest number of fp8 e4m3.
const LARGEST_FP8: f32 = 448.0;
const LARGEST_INT8: f32 = 127.0;

/// The scale that makes the largest of values [`magnitude`] the largest number of fp8.
pub(super) fn fp8_scale(magnitude: f32) -> f32 {
    scale(magnitude, LARGEST_FP8)
}

/// The scale that makes the largest of values the largest whole number.
pub(super) fn int8_scale(magnitude: f32) -> f32 {
    scale(magnitude, LARGEST_INT8)
}

fn scale(magnitude: f32, largest: f32) -> f32 {
    let scale = magnitude / largest;
    // Of zeros, or numbers so small that they are as good as zeros, any will do but 0.
    if scale == 0.0 { 1.0 } else { scale }
}

/// As PyTorch casts `(x / scale).clamp(-448, 448)`.
pub(super) fn fp8(values: &[f32], scale: f32, bytes: &mut [u8]) {
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = to_e4m3(value / scale);
    }
}

/// Whole numbers from -127 to 127, of two equally near the even one.
pub(super) fn int8(values: &[f32], scale: f32, bytes: &mut [u8]) {
    /// Adding this leaves the nearest whole number in the low bits. Instructions for rounding are not on
    /// every processor.
    const WHOLE: f32 = 12_582_912.0;
    for (byte, value) in bytes.iter_mut().zip(values) {
        let value = (value / scale).clamp(-LARGEST_INT8, LARGEST_INT8);
        *byte = (value + WHOLE).to_bits() as u8;
    }
}

/// The largest distance from 0 of finite values.
pub(super) fn magnitude(values: &[f32]) -> f32 {
    // As whole numbers, whose order is the same: vectors have instructions for the larger of them.
    let bits = values.iter().map(|value| value.to_bits() & 0x7fff_ffff);
    f32::from_bits(bits.fold(0, u32::max))
}
