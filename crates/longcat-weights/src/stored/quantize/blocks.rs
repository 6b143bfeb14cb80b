//! Blocks of GGUF that share scales.

use half::f16;
use longcat_kernels::PackedKind;

use super::eight_bit::magnitude;

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
pub(super) fn put_half(block: &mut [u8], value: f32) -> f32 {
    let half = f16::from_f32(value);
    block[..2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The number before 0.5. Added to one below 2^22 it leaves, without its fraction, the nearest whole number, of two
/// equally near the one further from 0. Instructions for rounding are not on every processor.
const ALMOST_HALF: f32 = 0.499_999_97;

/// The scale makes the largest value 127; of two whole numbers equally near the one further from 0.
pub(super) fn q8_0(values: &[f32], block: &mut [u8]) {
    let scale = magnitude(values) / 127.0;
    put_half(block, scale);
    let inverse = inverse(scale);
    for (q, x) in block[2..].iter_mut().zip(values) {
        let place = x * inverse;
        *q = (place + ALMOST_HALF.copysign(place)) as i8 as u8;
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
