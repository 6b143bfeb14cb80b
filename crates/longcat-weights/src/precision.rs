//! In which types weights are kept and computed with.

use std::fmt;

use burn::tensor::DType;
use longcat_kernels::{Products, streamed_blocks};
use regex::Regex;

use crate::stored::{Quantization, StoredType};

/// How the matrices of linear layers are kept on a device.
///
/// Packed ones are unpacked for each product; see [`Weight`](crate::Weight).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precision {
    /// As the file has them: packed ones stay packed, floats become the type of computation.
    #[default]
    Stored,
    /// As floats of the type of computation.
    Dense,
    /// fp8 (e4m3) with a scale for each matrix: a byte a weight.
    Fp8,
    /// Integers with a scale for each row: a byte a weight.
    Int8,
    /// GGUF's Q8_0: 8.5 bits a weight.
    Q8_0,
    /// GGUF's Q4_K: 4.5 bits a weight.
    Q4K,
}

impl Precision {
    /// In which way a matrix of this shape is packed; `None` where it is not. Rows that are no whole blocks
    /// of Q4_K are packed as Q4_0.
    pub(crate) fn quantization(self, shape: &[usize]) -> Option<Quantization> {
        let ways: &[Quantization] = match self {
            Self::Stored | Self::Dense => &[],
            Self::Fp8 => &[Quantization::Fp8],
            Self::Int8 => &[Quantization::Int8],
            Self::Q8_0 => &[Quantization::Q8_0],
            Self::Q4K => &[Quantization::Q4_K, Quantization::Q4_0],
        };
        let [rows, columns] = *shape else {
            return None;
        };
        let fits = |way: &&Quantization| way.layout([rows, columns]).is_valid();
        ways.iter().find(fits).copied()
    }

    /// In which type a file has a matrix of this shape that is packed so; `None` where it is not packed.
    pub fn stored_as(self, shape: &[usize]) -> Option<StoredType> {
        self.quantization(shape).map(|way| way.kind().into())
    }

    /// Whether floats are packed while they are loaded.
    pub fn packs(self) -> bool {
        !matches!(self, Self::Stored | Self::Dense)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored",
            Self::Dense => "dense",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        })
    }
}

/// What weights become when they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadAs {
    /// The type of computation, in which weights are that are not packed; the stored one where `None`.
    pub dtype: Option<DType>,
    /// How matrices are kept.
    pub precision: Precision,
    /// In which numbers those of a transformer are multiplied that are packed so that they can be.
    pub products: Products,
    /// Blocks that stay on the device; the matrices of the others live in host memory and pass through it.
    /// All stay where `None`.
    pub resident_blocks: Option<usize>,
}

impl LoadAs {
    /// Module paths of what lives in host memory, of `depth` blocks in a list called `blocks`.
    pub fn on_host(&self, depth: usize) -> Option<Regex> {
        let blocks = streamed_blocks(depth, self.resident_blocks?);
        let blocks: Vec<String> = blocks.iter().map(usize::to_string).collect();
        let pattern = format!(r"^blocks\.({})\.", blocks.join("|"));
        Regex::new(&pattern).ok().filter(|_| !blocks.is_empty())
    }
}

impl From<Option<DType>> for LoadAs {
    fn from(dtype: Option<DType>) -> Self {
        Self {
            dtype,
            ..Self::default()
        }
    }
}

impl From<DType> for LoadAs {
    fn from(dtype: DType) -> Self {
        Some(dtype).into()
    }
}
