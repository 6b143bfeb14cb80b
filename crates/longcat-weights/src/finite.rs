//! Looking for values that are not finite.

use burn::tensor::DType;
use rayon::prelude::*;

/// Index of the first NaN or infinity in little-endian floats, by their exponent bits.
pub(crate) fn first_not_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    match dtype {
        DType::F64 => first(bytes, |x| u64::from_le_bytes(x) << 1 >= 0x7ff << 53),
        DType::F32 => first(bytes, |x| u32::from_le_bytes(x) << 1 >= 0xff << 24),
        DType::BF16 => first(bytes, |x| u16::from_le_bytes(x) << 1 >= 0xff << 8),
        DType::F16 => first(bytes, |x| u16::from_le_bytes(x) << 1 >= 0x1f << 11),
        _ => None,
    }
}

/// Index of the first element that `matches`. Looks at runs without stopping inside, so that the
/// loop is one of vector instructions: this pass over a checkpoint is bound by memory, and idle threads share it.
fn first<const N: usize>(bytes: &[u8], matches: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    const RUN: usize = 4096;
    let (elements, _) = bytes.as_chunks::<N>();
    let run = elements
        .par_chunks(RUN)
        .position_first(|run| run.iter().fold(false, |any, x| any | matches(*x)))?;
    let start = run * RUN;
    let offset = elements[start..].iter().position(|x| matches(*x))?;
    Some(start + offset)
}
