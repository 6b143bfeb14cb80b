//! What a header may hold beyond what the safetensors library checks.

use std::path::Path;

use serde_json::Value;

use crate::WeightsError;

/// What is wrong with the `__metadata__` of a file that the library refuses: it may hold texts
/// only, and a new download of numbers would be no better.
pub(crate) fn metadata_problem(path: &Path, file: &[u8]) -> Option<WeightsError> {
    let length = u64::from_le_bytes(*file.first_chunk()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    let header: Value = serde_json::from_slice(file.get(8..end)?).ok()?;
    let metadata = header.get("__metadata__").filter(|m| !m.is_null())?;
    let reason = match metadata.as_object() {
        None => format!("__metadata__ is {metadata}, and must be an object of texts"),
        Some(entries) => {
            let (key, value) = entries.iter().find(|(_, value)| !value.is_string())?;
            format!("__metadata__ holds {value} under {key:?}; only texts are allowed there")
        }
    };
    Some(WeightsError::BadHeader {
        path: path.to_path_buf(),
        reason,
    })
}

/// Refuses names that a terminal or a log could take for something else.
pub(super) fn check_name(path: &Path, key: &str) -> Result<(), WeightsError> {
    if !key.contains(char::is_control) {
        return Ok(());
    }
    Err(WeightsError::BadHeader {
        path: path.to_path_buf(),
        reason: format!("the tensor name {key:?} holds control characters"),
    })
}
