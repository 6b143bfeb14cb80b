//! Stored values to numbers of a type that devices compute in, on all processors.

use burn::tensor::DType;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use longcat_kernels::packed::round_into;
use rayon::prelude::*;
use safetensors::Dtype;

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
        round_into(values, dtype, out);
        None
    }

    /// The values from `start` on, before their scale.
    fn decode(&self, start: usize, values: &mut [f32]) {
        if let Some(kind) = self.kind.packed() {
            let first = start / kind.elements() * kind.bytes();
            let count = values.len() / kind.elements() * kind.bytes();
            return kind.decode(&self.bytes[first..first + count], values);
        }
        let StoredType::Plain(dtype) = self.kind else {
            unreachable!("blocks are packed");
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
