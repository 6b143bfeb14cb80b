//! Writing a safetensors file of tensors that are made one after another.

use std::collections::BTreeMap;
use std::io::{BufWriter, Error, Write};
use std::path::Path;

use burn::tensor::DType;
use serde_json::{Map, json};

use crate::WeightsError;
use crate::write::{replace_file, stored_dtype};

/// A tensor that a file will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Key in the file.
    pub name: String,
    /// Type of its values.
    pub dtype: DType,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl PlannedTensor {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Writes the tensors of `plan` in its order, each made by `make` when its turn comes, under a temporary
/// name that is then renamed.
///
/// # Errors
/// [`WeightsError::Io`] when writing fails, [`WeightsError::WrongDtype`] for types that safetensors
/// files cannot hold, and what `make` reports; the target is then as it was.
pub fn stream_safetensors<E: From<WeightsError>>(
    path: &Path,
    plan: &[PlannedTensor],
    metadata: &BTreeMap<String, String>,
    mut make: impl FnMut(usize) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let header = header(path, plan, metadata)?;
    let mut failure = None;
    let written = replace_file(path, |temporary| {
        let mut file = BufWriter::new(std::fs::File::create(temporary)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (index, tensor) in plan.iter().enumerate() {
            let bytes = make(index).map_err(|error| {
                failure = Some(error);
                Error::other("stopped")
            })?;
            if bytes.len() != tensor.bytes() {
                return Err(Error::other(format!(
                    "{} has {} bytes and was planned with {}",
                    tensor.name,
                    bytes.len(),
                    tensor.bytes()
                )));
            }
            file.write_all(&bytes)?;
        }
        file.flush()
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

fn header(
    path: &Path,
    plan: &[PlannedTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, WeightsError> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut start = 0;
    for tensor in plan {
        let dtype = stored_dtype(tensor.dtype).ok_or_else(|| WeightsError::WrongDtype {
            path: path.to_path_buf(),
            key: tensor.name.clone(),
            dtype: format!("{:?}", tensor.dtype),
        })?;
        let end = start + tensor.bytes();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}),
        );
        start = end;
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| WeightsError::io(path, e.into()))?;
    // Values begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
