//! The file formats: each gives the same table of names, types, shapes and places.
//!
//! Files come from strangers. Nothing is executed, every place is checked to lie within the file, and
//! memory is taken for what is there, never for what a header announces.

mod gguf;
mod pickle;
mod safetensors;
mod torch;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::WeightsError;
use crate::stored::StoredType;

pub(crate) use gguf::type_number;

/// One tensor of a file.
pub(crate) struct RawTensor {
    pub(crate) key: String,
    pub(crate) kind: StoredType,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes lie in the file; as many as type and shape need.
    pub(crate) bytes: Range<usize>,
}

/// What a file says of itself.
pub(crate) struct RawFile {
    pub(crate) tensors: Vec<RawTensor>,
    /// Strings by name: `__metadata__` of safetensors, simple values of GGUF.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Endings of files that [`read`] knows, but for `.safetensors`.
pub(crate) const OTHER_ENDINGS: [&str; 4] = [".gguf", ".pth", ".pt", ".bin"];

/// What ComfyUI-GGUF calls the shape of a tensor that it stores in another.
pub(crate) const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// Reads the header of a file, whose first bytes tell the format.
///
/// # Errors
/// [`WeightsError::NotSafetensors`] for other formats, [`WeightsError::Corrupt`] for damage,
/// [`WeightsError::Unsupported`] names a tensor that cannot be read.
pub(crate) fn read(path: &Path, map: &[u8]) -> Result<RawFile, WeightsError> {
    if map.starts_with(b"GGUF") {
        return gguf::read(path, map);
    }
    // A header's length can begin with the same bytes as a zip file; its JSON then follows at byte 8.
    if map.starts_with(b"PK\x03\x04") && map.get(8) != Some(&b'{') {
        return torch::read(path, map);
    }
    safetensors::read(path, map)
}

fn corrupt(path: &Path, reason: impl Into<String>) -> WeightsError {
    WeightsError::Corrupt {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

fn foreign(path: &Path, reason: impl Into<String>) -> WeightsError {
    WeightsError::NotSafetensors {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

/// Number of values of a shape; `None` where it does not fit in memory.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}
