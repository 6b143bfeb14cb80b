//! What a file holds of a tensor: the type of its values, their bytes and scale. [`unpack`] makes
//! numbers of it; whoever computes on packed weights takes it as it is.

mod quantize;
mod unpack;

use std::fmt;
use std::sync::Arc;

use burn::tensor::DType;
use longcat_kernels::PackedKind;
use safetensors::Dtype;

pub(crate) use quantize::quantize_stored;
pub use quantize::{Quantization, Quantized, quantize};

/// How a file stores the values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// One after another, in a type that safetensors files have.
    Plain(Dtype),
    /// In blocks with scales of their own (GGUF): one of the kinds that have more than one value in a block.
    Block(PackedKind),
}

impl StoredType {
    /// 32-bit floats.
    pub const F32: Self = Self::Plain(Dtype::F32);
    /// fp8 of the kind e4m3.
    pub const FP8: Self = Self::Plain(Dtype::F8_E4M3);
    /// Integers of 8 bits.
    pub const INT8: Self = Self::Plain(Dtype::I8);

    /// The type on a device of values that need no unpacking: F64, F32, F16 and BF16.
    pub fn float(self) -> Option<DType> {
        match self {
            Self::Plain(Dtype::F64) => Some(DType::F64),
            Self::Plain(Dtype::F32) => Some(DType::F32),
            Self::Plain(Dtype::F16) => Some(DType::F16),
            Self::Plain(Dtype::BF16) => Some(DType::BF16),
            _ => None,
        }
    }

    /// How a packed weight of these values is stored; `None` for other types.
    pub fn packed(self) -> Option<PackedKind> {
        match self {
            Self::Plain(Dtype::F8_E4M3) => Some(PackedKind::Fp8E4m3),
            Self::Plain(Dtype::F8_E5M2) => Some(PackedKind::Fp8E5m2),
            Self::Plain(Dtype::I8) => Some(PackedKind::Int8),
            Self::Plain(_) => None,
            Self::Block(kind) => Some(kind),
        }
    }

    /// Floats of a type on a device; `None` for other types.
    pub fn of(dtype: DType) -> Option<Self> {
        Some(Self::Plain(match dtype {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => return None,
        }))
    }

    /// Whether the values can be made numbers: floats, fp8 and blocks by themselves, int8 with a
    /// scale.
    pub(crate) fn is_readable(self, scaled: bool) -> bool {
        match self {
            Self::Plain(Dtype::F8_E4M3 | Dtype::F8_E5M2) | Self::Block(_) => true,
            Self::Plain(Dtype::I8) => scaled,
            _ => self.float().is_some(),
        }
    }

    /// Bytes that so many values take; `None` where they do not fill whole blocks or bytes, or do
    /// not fit in memory.
    pub(crate) fn bytes_of(self, elements: usize) -> Option<usize> {
        match self {
            Self::Plain(dtype) => {
                let bits = elements.checked_mul(dtype.bitsize())?;
                bits.is_multiple_of(8).then_some(bits / 8)
            }
            Self::Block(block) => {
                let whole = elements.is_multiple_of(block.elements());
                whole.then(|| (elements / block.elements()).checked_mul(block.bytes()))?
            }
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => write!(f, "{dtype:?}"),
            Self::Block(block) => write!(f, "{block:?}"),
        }
    }
}

impl From<PackedKind> for StoredType {
    fn from(kind: PackedKind) -> Self {
        match kind {
            PackedKind::Fp8E4m3 => Self::FP8,
            PackedKind::Fp8E5m2 => Self::Plain(Dtype::F8_E5M2),
            PackedKind::Int8 => Self::INT8,
            blocks => Self::Block(blocks),
        }
    }
}

impl From<Dtype> for StoredType {
    fn from(dtype: Dtype) -> Self {
        Self::Plain(dtype)
    }
}

/// Multipliers of a tensor's values: one for every `group` values that follow each other. One group is
/// the whole tensor, a row, or a part of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// The multipliers, in the order of the values.
    pub values: Arc<[f32]>,
    /// Values per multiplier.
    pub group: usize,
}

impl Scale {
    /// Multiplies the values from the one numbered `start` on.
    fn apply(&self, start: usize, values: &mut [f32]) {
        let mut at = start;
        let mut rest = values;
        while !rest.is_empty() {
            let group = at / self.group;
            let count = ((group + 1) * self.group - at).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            let scale = self.values[group];
            now.iter_mut().for_each(|v| *v *= scale);
            (at, rest) = (at + count, later);
        }
    }
}

/// Values that lie in one place of a file.
#[derive(Debug, Clone)]
pub struct StoredPart<'a> {
    /// Their type.
    pub kind: StoredType,
    /// Their bytes, little endian.
    pub bytes: &'a [u8],
    /// How many they are.
    pub elements: usize,
    /// What they are multiplied by.
    pub scale: Option<Scale>,
}

/// A tensor as it is stored, row-major.
#[derive(Debug, Clone)]
pub struct StoredTensor<'a> {
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Its values: one part, or one after another parts of rows that the file stores split, each with
    /// its own type.
    pub parts: Vec<StoredPart<'a>>,
}

impl StoredTensor<'_> {
    /// The type of the values where the bytes of all parts are the values: one type of float and no
    /// scale.
    pub fn float(&self) -> Option<DType> {
        let dtype = self.parts.first()?.kind.float()?;
        self.parts
            .iter()
            .all(|p| p.kind.float() == Some(dtype) && p.scale.is_none())
            .then_some(dtype)
    }

    /// The type to unpack to where none is asked for: that of floats, and F32 of all else, which
    /// holds every product of a packed value with its scale to within one rounding.
    pub fn natural_dtype(&self) -> DType {
        self.float().unwrap_or(DType::F32)
    }
}
