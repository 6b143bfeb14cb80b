//! Packing other numbers as a matrix is packed, and how far they are off then.

use burn::tensor::DType;
use longcat_kernels::packed::unpack;
use longcat_kernels::{PackedKind, PackedLayout};

use crate::stored::{Quantization, Quantized, quantize};

/// How far packed numbers are from what was packed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PackingError {
    /// The sum of the squares of all differences.
    differences: f64,
    /// That of the numbers.
    numbers: f64,
}

impl PackingError {
    fn of(values: &[f32], packed: &Quantized) -> Self {
        let bytes = unpack(
            &packed.bytes,
            packed.scale.as_deref(),
            &packed.layout,
            DType::F32,
        );
        let (numbers, _) = bytes.as_chunks::<4>();
        let numbers = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let mut sums = Self::default();
        for (value, number) in values.iter().zip(numbers) {
            let value = f64::from(*value);
            sums.differences += (f64::from(number) - value).powi(2);
            sums.numbers += value.powi(2);
        }
        sums
    }

    /// The root mean square of the differences as a share of that of the numbers; 0 where these are all 0.
    pub fn share(&self) -> f64 {
        match self.numbers > 0.0 {
            true => (self.differences / self.numbers).sqrt(),
            false => 0.0,
        }
    }

    /// Counts further numbers in.
    pub fn add(&mut self, other: Self) {
        self.differences += other.differences;
        self.numbers += other.numbers;
    }
}

impl Quantization {
    /// What packs numbers as a layout has them; `None` for kinds that are only read. fp8 with more scales than
    /// one gets one for every row.
    pub fn like(layout: &PackedLayout) -> Option<Self> {
        Some(match layout.kind {
            PackedKind::Fp8E4m3 if layout.group >= layout.elements() => Self::Fp8,
            PackedKind::Fp8E4m3 => Self::Fp8Rows,
            PackedKind::Int8 => Self::Int8,
            PackedKind::Q8_0 => Self::Q8_0,
            PackedKind::Q4_0 => Self::Q4_0,
            PackedKind::Q4_K => Self::Q4_K,
            _ => return None,
        })
    }
}

/// Packs finite numbers in the way of a layout, see [`Quantization::like`].
///
/// # Panics
/// If they are not as many as the layout has.
pub fn requantize(values: &[f32], layout: &PackedLayout) -> Option<(Quantized, PackingError)> {
    let packed = quantize(values, layout.shape, Quantization::like(layout)?);
    let off = PackingError::of(values, &packed);
    Some((packed, off))
}
