//! Decoding packed weights of all kinds, and the kernel that unpacks them.
//!
//! Values are made as on the host (`crate::packed`): products of a scale, its factor and a whole number of
//! few bits are exact in f32, so that it changes nothing if a compiler fuses them with the difference that
//! follows.

use cubecl::prelude::*;

use crate::{PackedKind, PackedLayout};

/// How scales of the tensor are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scaling {
    /// There are none.
    Without,
    /// One serves all values of a vector.
    OfVectors,
    /// Values of one vector may have different ones.
    OfValues,
}

impl Scaling {
    /// For vectors of so many values of a weight with scales, if it has some.
    pub(super) fn of(scaled: Option<&PackedLayout>, vector: usize) -> Self {
        match scaled {
            None => Self::Without,
            Some(layout) if layout.group.is_multiple_of(vector) => Self::OfVectors,
            Some(_) => Self::OfValues,
        }
    }
}

/// A unit writes one vector of numbers.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn unpack<F: Float, N: Size>(
    words: &Array<u32>,
    scale: &Array<f32>,
    out: &mut Array<Vector<F, N>>,
    vectors: usize,
    group: usize,
    #[comptime] kind: PackedKind,
    #[comptime] scaling: Scaling,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= vectors {
        terminate!();
    }
    let first = ABSOLUTE_POS * N::value();
    let values = decoded::<N>(words, scale, first, group, kind, scaling);
    out[ABSOLUTE_POS] = Vector::<F, N>::cast_from(values);
}

/// The values from the one numbered `first` on, all in one run of a block that shares its scales.
#[cube]
pub(super) fn decoded<N: Size>(
    words: &Array<u32>,
    scale: &Array<f32>,
    first: usize,
    group: usize,
    #[comptime] kind: PackedKind,
    #[comptime] scaling: Scaling,
) -> Vector<f32, N> {
    let size = N::value();
    let elements = comptime!(kind.elements());
    let block = first / elements * comptime!(kind.bytes());
    let place = first % elements;
    let (factor, minimum) = scales(words, block, place, kind);
    let mut values = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..size {
        let mut value = if comptime!(elements == 1) {
            number(byte(words, block + i), kind)
        } else {
            factor * level(words, block, place + i, kind)
        };
        if comptime!(has_minimum(kind)) {
            if comptime!(elements == 32) {
                value += minimum;
            } else {
                value -= minimum;
            }
        }
        if comptime!(matches!(scaling, Scaling::OfValues)) {
            value *= scale[(first + i) / group];
        }
        values[i] = value;
    }
    if comptime!(matches!(scaling, Scaling::OfVectors)) {
        values *= Vector::<f32, N>::new(scale[first / group]);
    }
    values
}

/// Whether something is added to the products, or in blocks of 256 taken off.
fn has_minimum(kind: PackedKind) -> bool {
    matches!(
        kind,
        PackedKind::Q4_1
            | PackedKind::Q5_1
            | PackedKind::Q2_K
            | PackedKind::Q4_K
            | PackedKind::Q5_K
    )
}

#[cube]
fn byte(words: &Array<u32>, at: usize) -> u32 {
    let shift = u32::cast_from(at % 4) * 8u32;
    (words[at / 4] >> shift) & 255u32
}

/// The bits of a byte from `shift` on.
#[cube]
fn bits(words: &Array<u32>, at: usize, shift: usize) -> u32 {
    byte(words, at) >> u32::cast_from(shift)
}

/// The number of an f16, whose bits are the lower half.
#[cube]
fn from_half(bits: u32) -> f32 {
    let exponent = (bits >> 10u32) & 31u32;
    let mantissa = bits & 1023u32;
    // Infinities and NaN have the largest exponent of both types.
    let rebias = select(exponent == 31u32, 224u32, 112u32);
    let normal = ((exponent + rebias) << 23u32) | (mantissa << 13u32);
    // Without a leading one, multiples of 2^-24.
    let small = f32::cast_from(mantissa) * 5.960_464_5e-8f32;
    let magnitude = select(exponent == 0u32, u32::reinterpret(small), normal);
    f32::reinterpret(magnitude | ((bits & 0x8000u32) << 16u32))
}

/// The f16 at an even place, as all of them are.
#[cube]
fn half(words: &Array<u32>, at: usize) -> f32 {
    let shift = u32::cast_from(at % 4) * 8u32;
    from_half((words[at / 4] >> shift) & 0xffffu32)
}

/// A byte as a signed number.
#[cube]
fn signed(byte: u32) -> f32 {
    f32::cast_from(byte ^ 128u32) - 128.0f32
}

/// The number of an fp8 e4m3.
#[cube]
fn from_e4m3(byte: u32) -> f32 {
    let exponent = (byte >> 3u32) & 15u32;
    let mantissa = byte & 7u32;
    let normal = ((exponent + 120u32) << 23u32) | (mantissa << 20u32);
    // Without a leading one, multiples of 2^-9.
    let small = f32::cast_from(mantissa) * 0.001_953_125f32;
    let finite = select(exponent == 0u32, u32::reinterpret(small), normal);
    let magnitude = select((byte & 127u32) == 127u32, 0x7fc0_0000u32, finite);
    f32::reinterpret(magnitude | ((byte & 128u32) << 24u32))
}

/// The number of a byte of a kind without blocks.
#[cube]
fn number(byte: u32, #[comptime] kind: PackedKind) -> f32 {
    let mut value = f32::new(0.0);
    if comptime!(kind == PackedKind::Fp8E4m3) {
        value = from_e4m3(byte);
    }
    if comptime!(kind == PackedKind::Fp8E5m2) {
        // The upper half of an f16.
        value = from_half(byte << 8u32);
    }
    if comptime!(kind == PackedKind::Int8) {
        value = signed(byte);
    }
    value
}

/// Where the parts of a block are that hold its whole numbers: lower bits and those above them, if any.
fn parts(kind: PackedKind) -> (usize, Option<usize>) {
    match kind {
        PackedKind::Fp8E4m3 | PackedKind::Fp8E5m2 | PackedKind::Int8 => (0, None),
        PackedKind::Q4_0 | PackedKind::Q8_0 => (2, None),
        PackedKind::Q4_1 => (4, None),
        PackedKind::Q5_0 => (6, Some(2)),
        PackedKind::Q5_1 => (8, Some(4)),
        PackedKind::Q2_K | PackedKind::Q4_K => (16, None),
        PackedKind::Q3_K => (32, Some(0)),
        PackedKind::Q5_K => (48, Some(16)),
        PackedKind::Q6_K => (0, Some(128)),
    }
}

/// The whole number of value `place` of the block at `block`, which its scale multiplies.
#[cube]
fn level(words: &Array<u32>, block: usize, place: usize, #[comptime] kind: PackedKind) -> f32 {
    let low = block + comptime!(parts(kind).0);
    let high = block + comptime!(parts(kind).1.unwrap_or(0));
    // Of blocks of 256: which 32 values, and which of them.
    let run = place / 32;
    let l = place % 32;
    let mut whole = f32::new(0.0);
    if comptime!(kind == PackedKind::Q8_0) {
        whole = signed(byte(words, low + place));
    }
    if comptime!(kind.elements() == 32 && kind != PackedKind::Q8_0) {
        // The first 16 values are the lower halves of bytes.
        let mut q = bits(words, low + place % 16, place / 16 * 4) & 15u32;
        if comptime!(parts(kind).1.is_some()) {
            q |= (bits(words, high + place / 8, place % 8) & 1u32) << 4u32;
        }
        whole = f32::cast_from(q);
        if comptime!(kind == PackedKind::Q4_0) {
            whole -= 8.0f32;
        }
        if comptime!(kind == PackedKind::Q5_0) {
            whole -= 16.0f32;
        }
    }
    if comptime!(kind == PackedKind::Q2_K || kind == PackedKind::Q3_K) {
        let q = bits(words, low + run / 4 * 32 + l, run % 4 * 2) & 3u32;
        whole = f32::cast_from(q);
        if comptime!(kind == PackedKind::Q3_K) {
            // The offset is there where the bit is not.
            let bit = bits(words, high + l, run) & 1u32;
            whole -= f32::cast_from((bit ^ 1u32) << 2u32);
        }
    }
    if comptime!(kind == PackedKind::Q4_K || kind == PackedKind::Q5_K) {
        let mut q = bits(words, low + run / 2 * 32 + l, run % 2 * 4) & 15u32;
        if comptime!(kind == PackedKind::Q5_K) {
            q |= (bits(words, high + l, run) & 1u32) << 4u32;
        }
        whole = f32::cast_from(q);
    }
    if comptime!(kind == PackedKind::Q6_K) {
        // Halves of 128 values: four runs share 64 bytes of low bits and 32 of high ones.
        let side = run / 4;
        let k = run % 4;
        let lower = bits(words, low + side * 64 + k % 2 * 32 + l, k / 2 * 4) & 15u32;
        let upper = bits(words, high + side * 32 + l, k * 2) & 3u32;
        whole = f32::cast_from(lower | (upper << 4u32)) - 32.0f32;
    }
    whole
}

/// What multiplies the whole numbers from value `place` of the block at `block` on, and what is added to the
/// products or taken off.
#[cube]
fn scales(
    words: &Array<u32>,
    block: usize,
    place: usize,
    #[comptime] kind: PackedKind,
) -> (f32, f32) {
    let mut factor = f32::new(0.0);
    let mut minimum = f32::new(0.0);
    if comptime!(kind.elements() == 32) {
        factor = half(words, block);
        if comptime!(has_minimum(kind)) {
            minimum = half(words, block + 2);
        }
    }
    // Of 16 values.
    let sixteen = place / 16;
    if comptime!(kind == PackedKind::Q2_K) {
        let scale = byte(words, block + sixteen);
        factor = half(words, block + 80) * f32::cast_from(scale & 15u32);
        minimum = half(words, block + 82) * f32::cast_from(scale >> 4u32);
    }
    if comptime!(kind == PackedKind::Q3_K) {
        let low = bits(words, block + 96 + sixteen % 8, sixteen / 8 * 4) & 15u32;
        let high = bits(words, block + 104 + sixteen % 4, sixteen / 4 * 2) & 3u32;
        let scale = f32::cast_from(low | (high << 4u32)) - 32.0f32;
        factor = half(words, block + 108) * scale;
    }
    if comptime!(kind == PackedKind::Q4_K || kind == PackedKind::Q5_K) {
        let (scale, m) = scale_and_minimum(words, block + 4, place / 32);
        factor = half(words, block) * scale;
        minimum = half(words, block + 2) * m;
    }
    if comptime!(kind == PackedKind::Q6_K) {
        factor = half(words, block + 208) * signed(byte(words, block + 192 + sixteen));
    }
    (factor, minimum)
}

/// Scale and minimum of group `j` of eight, six bits each, of the twelve bytes at `at`.
#[cube]
fn scale_and_minimum(words: &Array<u32>, at: usize, j: usize) -> (f32, f32) {
    let k = at + j % 4;
    let scale = byte(words, k);
    let minimum = byte(words, k + 4);
    let both = byte(words, k + 8);
    let later_scale = (both & 15u32) | ((scale >> 2u32) & 48u32);
    let later_minimum = (both >> 4u32) | ((minimum >> 2u32) & 48u32);
    let early = j < 4;
    (
        f32::cast_from(select(early, scale & 63u32, later_scale)),
        f32::cast_from(select(early, minimum & 63u32, later_minimum)),
    )
}
