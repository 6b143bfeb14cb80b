//! Packed weights on the host: their types, how they lie in memory, and their values.
//!
//! [`PackedWeight`](crate::PackedWeight) is one on a device.

mod blocks;
mod eight_bit;
mod unpack;

use std::fmt;

use burn::tensor::DType;

pub(crate) use eight_bit::LARGEST_E4M3;
pub use eight_bit::to_e4m3;
pub use unpack::{round_into, unpack};

/// How the values of a packed weight are stored: each in eight bits, or in the blocks of GGUF, which
/// share scales and lie one after another in the order of the values.
#[allow(missing_docs)] // The names of the field.
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackedKind {
    /// PyTorch's `float8_e4m3fn`: no infinities, NaN where all bits but the sign are set.
    Fp8E4m3,
    /// PyTorch's `float8_e5m2`: the upper half of an f16.
    Fp8E5m2,
    Int8,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl PackedKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Fp8E4m3,
        Self::Fp8E5m2,
        Self::Int8,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Values per block; 1 where there are no blocks.
    pub fn elements(self) -> usize {
        match self {
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Int8 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes per block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Int8 => 1,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Where in a block its factors lie, each an f16: where they are finite, all of its values are.
    pub fn factors(self) -> &'static [usize] {
        match self {
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Int8 => &[],
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => &[0],
            Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K => &[0, 2],
            Self::Q2_K => &[80, 82],
            Self::Q3_K => &[108],
            Self::Q6_K => &[208],
        }
    }

    /// Whole blocks to their values in f32, without scales of the tensor. What is left over of `bytes` or
    /// of `values` stays as it is.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        let decode = match self {
            Self::Fp8E4m3 => return table(&eight_bit::E4M3, bytes, values),
            Self::Fp8E5m2 => return table(&eight_bit::E5M2, bytes, values),
            Self::Int8 => return each(bytes, values, |x| f32::from(x as i8)),
            Self::Q4_0 => blocks::q4_0,
            Self::Q4_1 => blocks::q4_1,
            Self::Q5_0 => blocks::q5_0,
            Self::Q5_1 => blocks::q5_1,
            Self::Q8_0 => blocks::q8_0,
            Self::Q2_K => blocks::q2_k,
            Self::Q3_K => blocks::q3_k,
            Self::Q4_K => blocks::q4_k,
            Self::Q5_K => blocks::q5_k,
            Self::Q6_K => blocks::q6_k,
        };
        let blocks = bytes.chunks_exact(self.bytes());
        for (block, values) in blocks.zip(values.chunks_exact_mut(self.elements())) {
            decode(block, values);
        }
    }
}

fn table(table: &[f32; 256], bytes: &[u8], values: &mut [f32]) {
    each(bytes, values, |x| table[usize::from(x)]);
}

fn each(bytes: &[u8], values: &mut [f32], value: impl Fn(u8) -> f32) {
    for (v, x) in values.iter_mut().zip(bytes) {
        *v = value(*x);
    }
}

/// In which numbers the products of a packed weight are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Products {
    /// In those of the input, which the weight is unpacked to.
    #[default]
    Dense,
    /// In fp8 (e4m3): rows of the input are rounded to it, each with a scale of its own. Sums are those of the
    /// matrix units. For weights in e4m3 on CUDA devices that have such products. The CPU computes with the same
    /// numbers, no faster; elsewhere the weight is unpacked.
    Fp8,
}

impl fmt::Display for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dense => "dense",
            Self::Fp8 => "fp8",
        })
    }
}

/// How a packed weight lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackedLayout {
    /// How its values are stored.
    pub kind: PackedKind,
    /// Rows and columns, `[out, in]`; rows are whole blocks.
    pub shape: [usize; 2],
    /// Values that share one scale of the tensor, where it has any: all of them, a row, or an equal part
    /// of a row.
    pub group: usize,
}

impl PackedLayout {
    /// A weight with one scale, or none.
    pub fn new(kind: PackedKind, shape: [usize; 2]) -> Self {
        let group = (shape[0] * shape[1]).max(1);
        Self { kind, shape, group }
    }

    /// The same with one scale for every `group` values.
    pub fn with_group(self, group: usize) -> Self {
        Self { group, ..self }
    }

    /// How many values there are.
    pub fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.elements() / self.kind.elements() * self.kind.bytes()
    }

    /// Words of 32 bits that they take on a device.
    pub fn words(&self) -> usize {
        self.bytes().div_ceil(4)
    }

    /// How many scales there are, if any.
    pub fn scales(&self) -> usize {
        self.elements() / self.group.max(1)
    }

    /// Whether rows are whole blocks, and scales those of all values, of rows, or of equal parts of rows.
    pub fn is_valid(&self) -> bool {
        let [rows, columns] = self.shape;
        let whole = columns.is_multiple_of(self.kind.elements());
        let parts = self.group > 0 && columns.is_multiple_of(self.group);
        rows > 0 && columns > 0 && whole && (self.group == rows * columns || parts)
    }
}

/// Whether packed weights are unpacked to it: F64, F32, F16 and BF16.
pub(crate) fn is_target(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
}
