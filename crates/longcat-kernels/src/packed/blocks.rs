//! The values of one block of each of GGUF's types.
//!
//! Values are made in f32 by the operations of the `gguf` package, in their order, so that they are the
//! same to the bit. All products in them are exact (the factors have few bits), so that a compiler that
//! fuses them with the sum that follows changes nothing.

use half::f16;

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Half `j / 16` of the bits of a byte: the first 16 values are the lower ones.
fn nibble(bytes: &[u8], j: usize) -> u8 {
    (bytes[j % 16] >> (4 * (j / 16))) & 15
}

fn fifth_bit(high: &[u8], j: usize) -> u8 {
    ((high[j / 8] >> (j % 8)) & 1) << 4
}

pub(super) fn q4_0(block: &[u8], values: &mut [f32]) {
    let d = half(block, 0);
    for (j, value) in values.iter_mut().enumerate() {
        *value = d * f32::from(nibble(&block[2..], j) as i8 - 8);
    }
}

pub(super) fn q4_1(block: &[u8], values: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (j, value) in values.iter_mut().enumerate() {
        *value = d * f32::from(nibble(&block[4..], j)) + m;
    }
}

pub(super) fn q5_0(block: &[u8], values: &mut [f32]) {
    let d = half(block, 0);
    let (high, low) = (&block[2..6], &block[6..]);
    for (j, value) in values.iter_mut().enumerate() {
        let q = nibble(low, j) | fifth_bit(high, j);
        *value = d * f32::from(q as i8 - 16);
    }
}

pub(super) fn q5_1(block: &[u8], values: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (high, low) = (&block[4..8], &block[8..]);
    for (j, value) in values.iter_mut().enumerate() {
        let q = nibble(low, j) | fifth_bit(high, j);
        *value = d * f32::from(q) + m;
    }
}

pub(super) fn q8_0(block: &[u8], values: &mut [f32]) {
    let d = half(block, 0);
    for (value, q) in values.iter_mut().zip(&block[2..]) {
        *value = f32::from(*q as i8) * d;
    }
}

/// Two bits of value `32 · group + l`: four groups share 32 bytes.
fn two_bits(bytes: &[u8], group: usize, l: usize) -> u8 {
    (bytes[32 * (group / 4) + l] >> (2 * (group % 4))) & 3
}

pub(super) fn q2_k(block: &[u8], values: &mut [f32]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, min) = (half(block, 80), half(block, 82));
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        for (l, value) in values.iter_mut().enumerate() {
            let scale = scales[2 * group + l / 16];
            let (d, min) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
            *value = d * f32::from(two_bits(quants, group, l)) - min;
        }
    }
}

pub(super) fn q3_k(block: &[u8], values: &mut [f32]) {
    let (mask, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        for (l, value) in values.iter_mut().enumerate() {
            let j = 2 * group + l / 16;
            let low = (scales[j % 8] >> (4 * (j / 8))) & 15;
            let high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
            let scale = (low | (high << 4)) as i8 - 32;
            // The offset is there where the bit is not.
            let offset = 4 * (1 - ((mask[l] >> group) & 1) as i8);
            let q = two_bits(quants, group, l) as i8 - offset;
            *value = (d * f32::from(scale)) * f32::from(q);
        }
    }
}

/// Scale and minimum of group `j` of eight, six bits each.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = match j {
        0..4 => (packed[j] & 63, packed[4 + j] & 63),
        _ => {
            let both = packed[4 + j];
            (
                (both & 15) | ((packed[j - 4] >> 2) & 0x30),
                (both >> 4) | ((packed[j] >> 2) & 0x30),
            )
        }
    };
    (f32::from(scale), f32::from(min))
}

pub(super) fn q4_k(block: &[u8], values: &mut [f32]) {
    let (d, min) = (half(block, 0), half(block, 2));
    let (scales, quants) = (&block[4..16], &block[16..]);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, m) = scale_and_min(scales, group);
        let (d, min) = (d * scale, min * m);
        let (quants, shift) = (&quants[32 * (group / 2)..], 4 * (group % 2));
        for (value, q) in values.iter_mut().zip(quants) {
            *value = d * f32::from((q >> shift) & 15) - min;
        }
    }
}

pub(super) fn q5_k(block: &[u8], values: &mut [f32]) {
    let (d, min) = (half(block, 0), half(block, 2));
    let (scales, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, m) = scale_and_min(scales, group);
        let (d, min) = (d * scale, min * m);
        let (quants, shift) = (&quants[32 * (group / 2)..], 4 * (group % 2));
        for ((value, q), high) in values.iter_mut().zip(quants).zip(high) {
            let q = ((q >> shift) & 15) | (((high >> group) & 1) << 4);
            *value = d * f32::from(q) - min;
        }
    }
}

pub(super) fn q6_k(block: &[u8], values: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        // Halves of 128 values: four groups share 64 bytes of low bits and 32 of high ones.
        let (side, k) = (group / 4, group % 4);
        let low = &low[64 * side + 32 * (k % 2)..];
        let high = &high[32 * side..];
        for (l, value) in values.iter_mut().enumerate() {
            let q = ((low[l] >> (4 * (k / 2))) & 15) | (((high[l] >> (2 * k)) & 3) << 4);
            let d = d * f32::from(scales[2 * group + l / 16] as i8);
            *value = d * f32::from(q as i8 - 32);
        }
    }
}
