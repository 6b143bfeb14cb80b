//! The block types of GGUF files.

use longcat_kernels::PackedKind;

/// Values in blocks that share scales, as in GGUF files.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum BlockType {
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

impl BlockType {
    /// The blocks of a type of packed weights; `None` of those without blocks.
    pub(super) fn of(kind: PackedKind) -> Option<Self> {
        Some(match kind {
            PackedKind::Fp8E4m3 | PackedKind::Fp8E5m2 | PackedKind::Int8 => return None,
            PackedKind::Q4_0 => Self::Q4_0,
            PackedKind::Q4_1 => Self::Q4_1,
            PackedKind::Q5_0 => Self::Q5_0,
            PackedKind::Q5_1 => Self::Q5_1,
            PackedKind::Q8_0 => Self::Q8_0,
            PackedKind::Q2_K => Self::Q2_K,
            PackedKind::Q3_K => Self::Q3_K,
            PackedKind::Q4_K => Self::Q4_K,
            PackedKind::Q5_K => Self::Q5_K,
            PackedKind::Q6_K => Self::Q6_K,
        })
    }

    /// The same as a type of packed weights.
    pub fn kind(self) -> PackedKind {
        match self {
            Self::Q4_0 => PackedKind::Q4_0,
            Self::Q4_1 => PackedKind::Q4_1,
            Self::Q5_0 => PackedKind::Q5_0,
            Self::Q5_1 => PackedKind::Q5_1,
            Self::Q8_0 => PackedKind::Q8_0,
            Self::Q2_K => PackedKind::Q2_K,
            Self::Q3_K => PackedKind::Q3_K,
            Self::Q4_K => PackedKind::Q4_K,
            Self::Q5_K => PackedKind::Q5_K,
            Self::Q6_K => PackedKind::Q6_K,
        }
    }

    /// Values per block.
    pub fn elements(self) -> usize {
        self.kind().elements()
    }

    /// Bytes per block.
    pub fn bytes(self) -> usize {
        self.kind().bytes()
    }
}
