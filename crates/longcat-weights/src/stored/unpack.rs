//! Stored values to numbers of a type that devices compute in, on all processors.

use burn::tensor::DType;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use super::eight_bit::{E4M3, E5M2};
use super::{StoredPart, StoredTensor, StoredType};

/// Values that are unpacked at a time: whole blocks, and few enough to stay in the nearest cache.
const RUN: usize = 4096;

impl StoredTensor<'_> {
    /// The values as little-endian numbers of `dtype` (F64, F32, F16 or BF16), each computed in f32
    /// and rounded once.
    ///
    /// # Errors
    /// The number of the first value that is not finite.
    ///
    /// # Panics
    /// For values that are no numbers: [`crate::WeightFiles::stored`] gives none such.
    pub fn unpack(&self, dtype: DType) -> Result<Vec<u8>, usize> {
        let size = dtype.size();
        let elements: usize = self.parts.iter().map(|part| part.elements).sum();
        let mut out = vec![0; elements * size];
        let (mut rest, mut done) = (out.as_mut_slice(), 0);
        for part in &self.parts {
            let (mine, others) = rest.split_at_mut(part.elements * size);
            let bad = mine
                .par_chunks_mut(RUN * size)
                .enumerate()
                .filter_map(|(run, out)| part.unpack_run(run * RUN, out, dtype))
                .min();
            if let Some(bad) = bad {
                return Err(done + bad);
            }
            (rest, done) = (others, done + part.elements);
        }
        Ok(out)
    }
}

impl StoredPart<'_> {
    /// The values from `start` on that fill `out`. Gives the number of the first that is not finite.
    fn unpack_run(&self, start: usize, out: &mut [u8], dtype: DType) -> Option<usize> {
        let mut values = [0.0; RUN];
        let values = &mut values[..out.len() / dtype.size()];
        self.decode(start, values);
        if let Some(scale) = &self.scale {
            scale.apply(start, values);
        }
        // Without stopping inside, so that the loop is one of vector instructions.
        if !values.iter().fold(true, |all, v| all & v.is_finite()) {
            return values
                .iter()
                .position(|v| !v.is_finite())
                .map(|i| start + i);
        }
        encode(values, dtype, out);
        None
    }

    /// The values from `start` on, before their scale.
    fn decode(&self, start: usize, values: &mut [f32]) {
        let dtype = match self.kind {
            StoredType::Plain(dtype) => dtype,
            StoredType::Block(block) => {
                let first = start / block.elements() * block.bytes();
                let count = values.len() / block.elements() * block.bytes();
                return block.decode(&self.bytes[first..first + count], values);
            }
        };
        let size = dtype.bitsize() / 8;
        let bytes = &self.bytes[start * size..(start + values.len()) * size];
        let mut bits = [0; RUN];
        let bits = &mut bits[..values.len()];
        match dtype {
            Dtype::F64 => each(bytes, values, |x| f64::from_le_bytes(x) as f32),
            Dtype::F32 => each(bytes, values, f32::from_le_bytes),
            Dtype::F16 => {
                each(bytes, bits, u16::from_le_bytes);
                let halves: &[f16] = (*bits).reinterpret_cast();
                halves.convert_to_f32_slice(values);
            }
            Dtype::BF16 => each(bytes, values, |x| bf16::from_le_bytes(x).to_f32()),
            Dtype::F8_E4M3 => each(bytes, values, |[x]| E4M3[usize::from(x)]),
            Dtype::F8_E5M2 => each(bytes, values, |[x]| E5M2[usize::from(x)]),
            Dtype::I8 => each(bytes, values, |[x]| f32::from(x as i8)),
            other => unreachable!("{other:?} is not a type of weights"),
        }
    }
}

fn each<const N: usize, T>(bytes: &[u8], values: &mut [T], value: impl Fn([u8; N]) -> T) {
    let (elements, _) = bytes.as_chunks::<N>();
    values
        .iter_mut()
        .zip(elements)
        .for_each(|(v, x)| *v = value(*x));
}

/// Finite values to bytes.
fn encode(values: &[f32], dtype: DType, out: &mut [u8]) {
    match dtype {
        DType::F64 => write(values, out, |v| f64::from(v).to_le_bytes()),
        DType::F32 => write(values, out, f32::to_le_bytes),
        DType::BF16 => write(values, out, |v| {
            // To the nearest, of two equally near to the even one.
            let bits = v.to_bits();
            let rounded = bits + 0x7fff + ((bits >> 16) & 1);
            ((rounded >> 16) as u16).to_le_bytes()
        }),
        DType::F16 => {
            let mut bits = [0u16; RUN];
            let bits = &mut bits[..values.len()];
            let halves: &mut [f16] = (*bits).reinterpret_cast_mut();
            halves.convert_from_f32_slice(values);
            let (elements, _) = out.as_chunks_mut::<2>();
            elements
                .iter_mut()
                .zip(bits)
                .for_each(|(x, v)| *x = v.to_le_bytes());
        }
        other => unreachable!("weights are not kept as {other:?}"),
    }
}

fn write<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    let (elements, _) = out.as_chunks_mut::<N>();
    elements
        .iter_mut()
        .zip(values)
        .for_each(|(x, v)| *x = bytes(*v));
}
