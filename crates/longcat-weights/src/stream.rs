//! Writing a file of tensors that are made one after another.

mod gguf;

use std::collections::BTreeMap;
use std::io::{BufWriter, Error, Write};
use std::path::Path;

use serde_json::{Map, json};

use crate::WeightsError;
use crate::stored::StoredType;
use crate::write::replace_file;

/// A tensor that a file will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Key in the file.
    pub name: String,
    /// How its values are stored.
    pub kind: StoredType,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl PlannedTensor {
    /// Bytes that it takes in the file.
    ///
    /// # Errors
    /// [`WeightsError::Unsupported`] where the values do not fill whole blocks.
    pub fn bytes(&self, path: &Path) -> Result<usize, WeightsError> {
        let elements = self.shape.iter().product();
        let bytes = self.kind.bytes_of(elements);
        bytes.ok_or_else(|| WeightsError::Unsupported {
            path: path.to_path_buf(),
            key: self.name.clone(),
            reason: format!(
                "its shape {:?} does not fill whole blocks of {}",
                self.shape, self.kind
            ),
        })
    }
}

/// Writes the tensors of `plan` in its order, each made by `make` when its turn comes, under a temporary
/// name that is then renamed: as GGUF where the name ends so, else as safetensors. `metadata` are strings of
/// the header.
///
/// # Errors
/// [`WeightsError::Io`] when writing fails, [`WeightsError::WrongDtype`] for types that such a file cannot
/// hold, and what `make` reports; the target is then as it was.
pub fn stream_weights<E: From<WeightsError>>(
    path: &Path,
    plan: &[PlannedTensor],
    metadata: &BTreeMap<String, String>,
    mut make: impl FnMut(usize) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let bytes: Vec<usize> = plan
        .iter()
        .map(|tensor| tensor.bytes(path))
        .collect::<Result<_, _>>()?;
    let gguf = path.extension().is_some_and(|ending| ending == "gguf");
    let (header, alignment) = match gguf {
        true => (gguf::header(path, plan, &bytes, metadata)?, gguf::ALIGNMENT),
        false => (header(path, plan, &bytes, metadata)?, 1),
    };
    let mut failure = None;
    let written = replace_file(path, |temporary| {
        let mut file = BufWriter::new(std::fs::File::create(temporary)?);
        file.write_all(&header)?;
        for (index, (tensor, planned)) in plan.iter().zip(&bytes).enumerate() {
            let bytes = make(index).map_err(|error| {
                failure = Some(error);
                Error::other("stopped")
            })?;
            if bytes.len() != *planned {
                return Err(Error::other(format!(
                    "{} has {} bytes and was planned with {planned}",
                    tensor.name,
                    bytes.len(),
                )));
            }
            file.write_all(&bytes)?;
            let padding = planned.next_multiple_of(alignment) - planned;
            file.write_all(&vec![0; padding])?;
        }
        file.flush()
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

/// The header of a safetensors file with its length before it.
fn header(
    path: &Path,
    plan: &[PlannedTensor],
    bytes: &[usize],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, WeightsError> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut start = 0;
    for (tensor, bytes) in plan.iter().zip(bytes) {
        let StoredType::Plain(dtype) = tensor.kind else {
            return Err(wrong_type(path, tensor));
        };
        let end = start + bytes;
        header.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}),
        );
        start = end;
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| WeightsError::io(path, e.into()))?;
    // Values begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    Ok(file)
}

fn wrong_type(path: &Path, tensor: &PlannedTensor) -> WeightsError {
    WeightsError::WrongDtype {
        path: path.to_path_buf(),
        key: tensor.name.clone(),
        dtype: tensor.kind.to_string(),
    }
}
