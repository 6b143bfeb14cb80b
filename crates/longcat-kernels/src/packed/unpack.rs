//! Packed values to numbers of a type that devices compute in, on all processors.

use burn::tensor::DType;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;

use super::PackedLayout;

/// Values that are unpacked at a time: whole blocks, and few enough to stay in the nearest cache.
const RUN: usize = 4096;

/// The values of a packed weight as little-endian numbers of `dtype` (F64, F32, F16 or BF16): each is
/// computed in f32 and rounded once. `scale` are its scales, if it has any.
///
/// # Panics
/// If there are fewer bytes or scales than the layout has, or for another dtype.
pub fn unpack(bytes: &[u8], scale: Option<&[f32]>, layout: &PackedLayout, dtype: DType) -> Vec<u8> {
    let size = dtype.size();
    let mut out = vec![0; layout.elements() * size];
    let runs = out.par_chunks_mut(RUN * size).enumerate();
    runs.for_each(|(run, out)| {
        let mut values = [0.0; RUN];
        let values = &mut values[..out.len() / size];
        let blocks = run * RUN / layout.kind.elements();
        let count = values.len() / layout.kind.elements();
        let bytes = &bytes[blocks * layout.kind.bytes()..][..count * layout.kind.bytes()];
        layout.kind.decode(bytes, values);
        if let Some(scale) = scale {
            multiply(values, run * RUN, scale, layout.group);
        }
        round_into(values, dtype, out);
    });
    out
}

/// Multiplies the values from the one numbered `start` on by the scales of their groups.
fn multiply(values: &mut [f32], start: usize, scale: &[f32], group: usize) {
    let (mut at, mut rest) = (start, values);
    while !rest.is_empty() {
        let index = at / group;
        let count = ((index + 1) * group - at).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.iter_mut().for_each(|value| *value *= scale[index]);
        (at, rest) = (at + count, later);
    }
}

/// Writes values as little-endian numbers of `dtype` (F64, F32, F16 or BF16), each rounded to the nearest,
/// of two equally near to the even one.
///
/// # Panics
/// For another dtype.
pub fn round_into(values: &[f32], dtype: DType, out: &mut [u8]) {
    match dtype {
        DType::F64 => write(values, out, |v| f64::from(v).to_le_bytes()),
        DType::F32 => write(values, out, f32::to_le_bytes),
        DType::BF16 => write(values, out, |v| {
            let bits = v.to_bits();
            // Of NaN the sum would be another number.
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            let rounded = if v.is_nan() {
                bits | 0x0040_0000
            } else {
                rounded
            };
            ((rounded >> 16) as u16).to_le_bytes()
        }),
        DType::F16 => {
            for (values, out) in values.chunks(RUN).zip(out.chunks_mut(2 * RUN)) {
                let mut bits = [0u16; RUN];
                let bits = &mut bits[..values.len()];
                let halves: &mut [f16] = (*bits).reinterpret_cast_mut();
                halves.convert_from_f32_slice(values);
                write(bits, out, |v| v.to_le_bytes());
            }
        }
        other => panic!("weights are not kept as {other:?}"),
    }
}

fn write<T: Copy, const N: usize>(values: &[T], out: &mut [u8], bytes: impl Fn(T) -> [u8; N]) {
    let (elements, _) = out.as_chunks_mut::<N>();
    for (x, v) in elements.iter_mut().zip(values) {
        *x = bytes(*v);
    }
}
