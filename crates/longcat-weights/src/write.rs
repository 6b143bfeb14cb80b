//! Writing files: safetensors from tensors or a module, and atomic replacement.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, TensorData};
use burn_store::{BurnToPyTorchAdapter, ModuleSnapshot};
use longcat_partial::Partial;
use safetensors::Dtype;
use safetensors::tensor::{View, serialize_to_file};

use crate::{NameMap, WeightsError};

/// A host tensor with its name in a file.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    /// Key in the file.
    pub name: String,
    /// Values, row-major.
    pub data: TensorData,
}

/// All parameters of a module as host tensors, named for a file by `names` (from internal paths).
///
/// Weights of Burn's own `Linear` are transposed to `[out, in]`, the inverse of what
/// [`load_module`](crate::load_module) does.
///
/// # Errors
/// [`WeightsError::ReadBack`] when a parameter cannot be read back from its device.
pub fn collect_module<B: Backend, M: Module<B> + ModuleSnapshot<B>>(
    module: &M,
    names: &NameMap,
) -> Result<Vec<NamedTensor>, WeightsError> {
    module
        .collect(None, Some(Box::new(BurnToPyTorchAdapter)), false)
        .into_iter()
        .map(|snapshot| {
            let path = snapshot.full_path();
            let data = snapshot.to_data().map_err(|e| WeightsError::ReadBack {
                path: PathBuf::from(&path),
                message: e.to_string(),
            })?;
            Ok(NamedTensor {
                name: names.map(&path),
                data,
            })
        })
        .collect()
}

struct DataView<'a>(&'a TensorData, Dtype);

impl View for DataView<'_> {
    fn dtype(&self) -> Dtype {
        self.1
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.0.as_bytes().into()
    }
    fn data_len(&self) -> usize {
        self.0.as_bytes().len()
    }
}

fn stored_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 | DType::Flex32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::U8 => Dtype::U8,
        DType::U32 => Dtype::U32,
        _ => return None,
    })
}

/// Writes tensors to a safetensors file under a temporary name, then renames it, so that the
/// target is either the old file or the whole new one.
///
/// # Errors
/// [`WeightsError::Io`] when writing fails, [`WeightsError::WrongDtype`] for types that
/// safetensors files cannot hold.
pub fn write_safetensors(
    path: &Path,
    tensors: &[NamedTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let mut views = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let dtype = stored_dtype(tensor.data.dtype).ok_or_else(|| WeightsError::WrongDtype {
            path: path.to_path_buf(),
            key: tensor.name.clone(),
            dtype: format!("{:?}", tensor.data.dtype),
        })?;
        views.push((tensor.name.as_str(), DataView(&tensor.data, dtype)));
    }
    let metadata = (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect());
    replace_file(path, |temporary| {
        serialize_to_file(views, metadata, temporary)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        sort_metadata(temporary)
    })
}

/// Puts the strings of a header in order: the safetensors crate keeps them in a hash map, and equal
/// contents are to give equal files.
fn sort_metadata(path: &Path) -> std::io::Result<()> {
    let mut file = fs::File::options().read(true).write(true).open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = usize::try_from(u64::from_le_bytes(length)).map_err(std::io::Error::other)?;
    let mut header = vec![0; length];
    file.read_exact(&mut header)?;
    let mut json: serde_json::Value = serde_json::from_slice(&header)?;
    let Some(strings) = json.get_mut("__metadata__").and_then(|m| m.as_object_mut()) else {
        return Ok(());
    };
    strings.sort_keys();
    let mut sorted = serde_json::to_vec(&json)?;
    sorted.resize(length, b' ');
    file.seek(SeekFrom::Start(8))?;
    file.write_all(&sorted)
}

/// Writes `bytes` to a file under a temporary name, then renames it.
///
/// # Errors
/// [`WeightsError::Io`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    replace_file(path, |temporary| {
        let mut file = fs::File::create(temporary)?;
        file.write_all(bytes)
    })
}

pub(crate) fn replace_file(
    path: &Path,
    write: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<(), WeightsError> {
    let partial = Partial::new(path);
    write(partial.path())
        // The data reaches the disk before the name does: a crash between the two leaves the
        // old file, never an empty new one.
        .and_then(|()| fs::File::open(partial.path())?.sync_all())
        .and_then(|()| partial.finish())
        .map_err(|e| WeightsError::io(path, e))
}
