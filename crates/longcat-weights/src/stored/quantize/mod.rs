//! Numbers to packed weights, on all processors.

mod blocks;
mod eight_bit;

use longcat_kernels::{PackedKind, PackedLayout};

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
    /// GGUF's Q4_K by the search of ggml's reference. Its sums are added in another order, so that of two
    /// scales that are about as good the other one may be taken.
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
    let layout = to.layout(shape);
    assert!(layout.is_valid(), "{to:?} of a weight {shape:?}");
    assert_eq!(values.len(), layout.elements(), "values of {shape:?}");
    let (bytes, scale) = match to {
        Quantization::Fp8 | Quantization::Fp8Rows => {
            let (bytes, scale) = eight_bit::fp8(values, &layout);
            (bytes, Some(scale))
        }
        Quantization::Int8 => {
            let (bytes, scale) = eight_bit::int8(values, &layout);
            (bytes, Some(scale))
        }
        Quantization::Q8_0 => (blocks::all(values, to.kind(), blocks::q8_0), None),
        Quantization::Q4_0 => (blocks::all(values, to.kind(), blocks::q4_0), None),
        Quantization::Q4_K => (blocks::all(values, to.kind(), blocks::q4_k), None),
    };
    Quantized {
        bytes,
        scale,
        layout,
    }
}
