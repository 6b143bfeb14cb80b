//! Stored values to numbers of a type that devices compute in, on all processors.

use burn::tensor::DType;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use longcat_kernels::PackedKind;
use longcat_kernels::packed::round_into;
use rayon::prelude::*;
use safetensors::Dtype;

use super::{StoredPart, StoredTensor, StoredType};

/// Values that are unpacked at a time: whole blocks, and few enough to stay in the nearest cache.
const RUN: usize = 4096;

/// No packed kind has greater values before scales of the tensor: those of Q6_K come to 2.7e8.
const MOST_UNSCALED: f32 = 1e9;

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

    /// The values in f32.
    ///
    /// # Errors
    /// The number of the first value that is not finite.
    pub(crate) fn values(&self) -> Result<Vec<f32>, usize> {
        let elements = self.parts.iter().map(|part| part.elements).sum();
        let mut out = vec![0.0; elements];
        let (mut rest, mut done) = (out.as_mut_slice(), 0);
        for part in &self.parts {
            let (mine, others) = rest.split_at_mut(part.elements);
            let bad = mine
                .par_chunks_mut(RUN)
                .enumerate()
                .filter_map(|(run, values)| part.values_run(run * RUN, values))
                .min();
            if let Some(bad) = bad {
                return Err(done + bad);
            }
            (rest, done) = (others, done + part.elements);
        }
        Ok(out)
    }

    /// The values from `start` on that fill `values`, which no part has in blocks. Gives the number of the
    /// first that is not finite.
    pub(crate) fn values_at(&self, start: usize, values: &mut [f32]) -> Option<usize> {
        let (mut at, mut rest, mut first) = (start, values, 0);
        for part in &self.parts {
            let end = first + part.elements;
            let count = end.saturating_sub(at).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            for run in now.chunks_mut(RUN) {
                let length = run.len();
                if let Some(bad) = part.values_run(at - first, run) {
                    return Some(first + bad);
                }
                at += length;
            }
            (rest, first) = (later, end);
        }
        None
    }

    /// Whether all values are finite, without keeping any.
    ///
    /// # Errors
    /// The number of the first value that is not.
    pub(crate) fn check_finite(&self) -> Result<(), usize> {
        let mut done = 0;
        for part in &self.parts {
            if part.is_surely_finite() {
                done += part.elements;
                continue;
            }
            let bad = (0..part.elements.div_ceil(RUN))
                .into_par_iter()
                .filter_map(|run| {
                    let mut values = [0.0; RUN];
                    let count = RUN.min(part.elements - run * RUN);
                    part.values_run(run * RUN, &mut values[..count])
                })
                .min();
            if let Some(bad) = bad {
                return Err(done + bad);
            }
            done += part.elements;
        }
        Ok(())
    }
}

impl StoredPart<'_> {
    /// Whether all values are finite, by what decides it: bytes that are no numbers, factors of blocks, scales.
    /// Reads a fraction of what computing the values takes. Where it says no, they are to be computed.
    fn is_surely_finite(&self) -> bool {
        let Some(kind) = self.kind.packed() else {
            return false;
        };
        let scales = self.scale.iter().flat_map(|scale| scale.values.iter());
        let mut scales = scales.map(|scale| (scale * MOST_UNSCALED).is_finite());
        if !scales.all(|finite| finite) {
            return false;
        }
        // Without stopping inside of a run, so that the loop is one of vector instructions.
        let bytes = |is_number: fn(u8) -> bool| {
            let runs = self.bytes.par_chunks(16 * RUN);
            runs.all(|run| run.iter().fold(true, |all, byte| all & is_number(*byte)))
        };
        match kind {
            PackedKind::Int8 => true,
            PackedKind::Fp8E4m3 => bytes(|byte| byte & 0x7f != 0x7f),
            PackedKind::Fp8E5m2 => bytes(|byte| byte & 0x7f < 0x7c),
            blocks => {
                let (size, factors) = (blocks.bytes(), blocks.factors());
                let finite = |block: &[u8], at: usize| block[at + 1] & 0x7c != 0x7c;
                let runs = self.bytes.par_chunks(size * RUN);
                runs.all(|run| {
                    let mut blocks = run.chunks_exact(size);
                    blocks.all(|block| factors.iter().all(|at| finite(block, *at)))
                })
            }
        }
    }

    /// The values from `start` on that fill `out`. Gives the number of the first that is not finite.
    fn unpack_run(&self, start: usize, out: &mut [u8], dtype: DType) -> Option<usize> {
        let mut values = [0.0; RUN];
        let values = &mut values[..out.len() / dtype.size()];
        let bad = self.values_run(start, values);
        if bad.is_none() {
            round_into(values, dtype, out);
        }
        bad
    }

    /// The values from `start` on in f32. Gives the number of the first that is not finite.
    fn values_run(&self, start: usize, values: &mut [f32]) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::Scale;

    fn part(kind: PackedKind, bytes: &[u8], scale: Option<f32>) -> StoredPart<'_> {
        let elements = bytes.len() / kind.bytes() * kind.elements();
        StoredPart {
            kind: kind.into(),
            bytes,
            elements,
            scale: scale.map(|scale| Scale {
                values: [scale].into(),
                group: elements,
            }),
        }
    }

    /// By computing every value.
    fn is_finite(part: &StoredPart<'_>) -> bool {
        let mut values = vec![0.0; part.elements];
        part.values_run(0, &mut values).is_none()
    }

    #[test]
    fn factors_and_scales_tell_what_values_tell() {
        for kind in PackedKind::ALL {
            // All bits but those of factors are set: the greatest numbers.
            let mut block = vec![if kind.elements() == 1 { 0x77 } else { 0xff }; kind.bytes()];
            for at in kind.factors() {
                block[*at..at + 2].copy_from_slice(&0x7bff_u16.to_le_bytes());
            }
            let blocks = block.repeat(3);
            for (scale, expected) in [(None, true), (Some(1e-3), true), (Some(f32::NAN), false)] {
                let part = part(kind, &blocks, scale);
                assert!(is_finite(&part) == expected, "{kind:?} {scale:?}");
                assert_eq!(part.is_surely_finite(), expected, "{kind:?} {scale:?}");
            }
            for at in kind.factors() {
                for bad in [0x7c00_u16, 0xfe00] {
                    let mut blocks = blocks.clone();
                    blocks[kind.bytes() + at..][..2].copy_from_slice(&bad.to_le_bytes());
                    let part = part(kind, &blocks, None);
                    assert!(!is_finite(&part) && !part.is_surely_finite(), "{kind:?}");
                }
            }
        }
        for byte in 0..=255 {
            for kind in [PackedKind::Fp8E4m3, PackedKind::Fp8E5m2, PackedKind::Int8] {
                let bytes = [0, byte];
                let part = part(kind, &bytes, None);
                assert_eq!(part.is_surely_finite(), is_finite(&part), "{kind:?} {byte}");
            }
        }
    }
}
