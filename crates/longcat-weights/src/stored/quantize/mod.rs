//! Numbers to packed weights, on all processors.

mod blocks;
mod eight_bit;
mod q4_k;

use longcat_kernels::{PackedKind, PackedLayout};
use rayon::prelude::*;

use super::{StoredTensor, StoredType};

/// Values that are worth a task of their own.
const TASK: usize = 1 << 16;

/// What weights are packed to.
#[allow(non_camel_case_types)] // The names of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// fp8 e4m3 with one scale for the tensor, as ComfyUI's scaled fp8 files have it.
    Fp8,
    /// fp8 e4m3 with a scale for every row: an output channel.
    Fp8Rows,
    /// int8 with a scale for every row.
    Int8,
    /// GGUF's Q8_0, the same bits as by the `gguf` package.
    Q8_0,
    /// GGUF's Q4_0, the same bits as by the `gguf` package.
    Q4_0,
    /// GGUF's Q4_K by the search of ggml's reference. Programs of ggml may round its sums otherwise, so that of
    /// two scales that are about as good they may take the other one.
    Q4_K,
}

impl Quantization {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Fp8,
        Self::Fp8Rows,
        Self::Int8,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_K,
    ];

    /// How the values are stored.
    pub fn kind(self) -> PackedKind {
        match self {
            Self::Fp8 | Self::Fp8Rows => PackedKind::Fp8E4m3,
            Self::Int8 => PackedKind::Int8,
            Self::Q8_0 => PackedKind::Q8_0,
            Self::Q4_0 => PackedKind::Q4_0,
            Self::Q4_K => PackedKind::Q4_K,
        }
    }

    /// How a weight `[out, in]` lies in memory then. Not every weight can: see
    /// [`PackedLayout::is_valid`].
    pub fn layout(self, shape: [usize; 2]) -> PackedLayout {
        let layout = PackedLayout::new(self.kind(), shape);
        match self {
            Self::Fp8Rows | Self::Int8 => layout.with_group(shape[1]),
            Self::Fp8 | Self::Q8_0 | Self::Q4_0 | Self::Q4_K => layout,
        }
    }
}

/// A weight that [`quantize`] packed.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The stored bytes.
    pub bytes: Vec<u8>,
    /// The scales of [`Quantization::Fp8`], [`Fp8Rows`](Quantization::Fp8Rows) and
    /// [`Int8`](Quantization::Int8); blocks have theirs inside.
    pub scale: Option<Vec<f32>>,
    /// How they lie in memory.
    pub layout: PackedLayout,
}

/// Packs finite values of a weight `[out, in]`, row after row.
///
/// # Panics
/// If there are not as many values, or rows are not whole blocks: ask [`PackedLayout::is_valid`] of
/// [`Quantization::layout`] first.
pub fn quantize(values: &[f32], shape: [usize; 2], to: Quantization) -> Quantized {
    assert_eq!(values.len(), shape[0] * shape[1], "values of {shape:?}");
    let given = pack(shape, to, |start, out: &mut [f32]| {
        out.copy_from_slice(&values[start..][..out.len()]);
        None
    });
    given.expect("values in memory are all taken")
}

/// As [`quantize`], of a weight as it is stored, whose values are never all in memory as floats: of those of a
/// large transformer there are a hundred gigabytes, each touched once.
///
/// # Errors
/// The number of the first value that is not finite.
pub(crate) fn quantize_stored(
    stored: &StoredTensor<'_>,
    shape: [usize; 2],
    to: Quantization,
) -> Result<Quantized, usize> {
    // Rows need not be whole blocks of what is stored.
    let in_blocks = |part: &super::StoredPart<'_>| matches!(part.kind, StoredType::Block(_));
    if stored.parts.iter().any(in_blocks) {
        return Ok(quantize(&stored.values()?, shape, to));
    }
    pack(shape, to, |start, out: &mut [f32]| {
        stored.values_at(start, out)
    })
}

/// Packs rows in parallel. `read` fills a row with the values from a place on, and gives the place of the first
/// that is not finite; of these the first of all is the error.
fn pack(
    shape: [usize; 2],
    to: Quantization,
    read: impl Fn(usize, &mut [f32]) -> Option<usize> + Sync,
) -> Result<Quantized, usize> {
    let layout = to.layout(shape);
    assert!(layout.is_valid(), "{to:?} of a weight {shape:?}");
    let [rows, columns] = shape;
    let rows_of_task = (TASK / columns).max(1);
    let of_all = match to {
        Quantization::Fp8 => {
            let parts = (0..rows).into_par_iter().with_min_len(rows_of_task);
            let magnitude = |values: &mut Vec<f32>, row| match read(row * columns, values) {
                None => (usize::MAX, eight_bit::magnitude(values)),
                Some(bad) => (bad, 0.0),
            };
            let (bad, most) = parts.map_init(|| vec![0.0; columns], magnitude).reduce(
                || (usize::MAX, 0.0),
                |(bad, most), (other_bad, other)| (bad.min(other_bad), most.max(other)),
            );
            if bad != usize::MAX {
                return Err(bad);
            }
            Some(eight_bit::fp8_scale(most))
        }
        _ => None,
    };
    let mut bytes = vec![0; layout.bytes()];
    let mut scales = vec![0.0; rows];
    let bad = bytes
        .par_chunks_exact_mut(layout.bytes() / rows)
        .zip(&mut scales)
        .with_min_len(rows_of_task)
        .enumerate()
        .map_init(
            || vec![0.0; columns],
            |values, (row, (bytes, scale))| {
                let bad = read(row * columns, values);
                if bad.is_none() {
                    *scale = pack_row(values, to, of_all, bytes);
                }
                bad
            },
        )
        .flatten_iter()
        .min();
    if let Some(bad) = bad {
        return Err(bad);
    }
    let scale = match to {
        Quantization::Fp8 => of_all.map(|scale| vec![scale]),
        Quantization::Fp8Rows | Quantization::Int8 => Some(scales),
        Quantization::Q8_0 | Quantization::Q4_0 | Quantization::Q4_K => None,
    };
    Ok(Quantized {
        bytes,
        scale,
        layout,
    })
}

/// Packs a row and gives its scale, that of all rows if there is one; 1 where blocks have theirs inside.
fn pack_row(values: &[f32], to: Quantization, of_all: Option<f32>, bytes: &mut [u8]) -> f32 {
    let magnitude = || eight_bit::magnitude(values);
    let kind = to.kind();
    match to {
        Quantization::Fp8 | Quantization::Fp8Rows => {
            let scale = of_all.unwrap_or_else(|| eight_bit::fp8_scale(magnitude()));
            eight_bit::fp8(values, scale, bytes);
            return scale;
        }
        Quantization::Int8 => {
            let scale = eight_bit::int8_scale(magnitude());
            eight_bit::int8(values, scale, bytes);
            return scale;
        }
        Quantization::Q8_0 => blocks::row(values, kind, bytes, blocks::q8_0),
        Quantization::Q4_0 => blocks::row(values, kind, bytes, blocks::q4_0),
        Quantization::Q4_K => q4_k::row(values, bytes),
    }
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::StoredPart;
    use half::bf16;

    const SHAPE: [usize; 2] = [6, 4352];

    /// Numbers that bf16 holds.
    fn numbers() -> Vec<f32> {
        let number = |i: usize| (i * 7919 % 509) as f32 / 64.0 - 4.0;
        (0..SHAPE[0] * SHAPE[1]).map(number).collect()
    }

    /// Two rows in bf16 and four in f32, as files that store parts of rows split.
    fn with_stored<T>(values: &[f32], take: impl FnOnce(&StoredTensor<'_>) -> T) -> T {
        let (first, second) = values.split_at(2 * SHAPE[1]);
        let halves = first.iter().map(|x| bf16::from_f32(*x).to_le_bytes());
        let halves: Vec<u8> = halves.flatten().collect();
        let floats: Vec<u8> = second.iter().flat_map(|x| x.to_le_bytes()).collect();
        let part = |kind, bytes, elements| StoredPart {
            kind,
            bytes,
            elements,
            scale: None,
        };
        take(&StoredTensor {
            shape: SHAPE.to_vec(),
            parts: vec![
                part(
                    StoredType::Plain(safetensors::Dtype::BF16),
                    &halves,
                    first.len(),
                ),
                part(StoredType::F32, &floats, second.len()),
            ],
        })
    }

    #[test]
    fn stored_values_are_packed_as_those_in_memory() {
        let values = numbers();
        for to in Quantization::ALL {
            let packed = with_stored(&values, |stored| quantize_stored(stored, SHAPE, to));
            assert_eq!(packed, Ok(quantize(&values, SHAPE, to)), "{to:?}");
        }
    }

    #[test]
    fn the_first_value_that_is_no_number_is_told() {
        let mut values = numbers();
        for bad in [3 * SHAPE[1] + 4200, SHAPE[1] + 17] {
            values[bad] = f32::INFINITY;
            for to in Quantization::ALL {
                let packed = with_stored(&values, |stored| quantize_stored(stored, SHAPE, to));
                assert_eq!(packed, Err(bad), "{to:?}");
            }
        }
    }
}
