//! Tensors by name: memory-mapped files and shards, checked before use.

pub(crate) mod checks;
mod flat;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Bytes, DType, TensorData};
use longcat_kernels::{HostBytes, HostMemory};
use memmap2::Mmap;

use crate::error::index_error;
use crate::finite::first_not_finite;
use crate::format::{self, OTHER_ENDINGS};
use crate::stored::{Scale, StoredPart, StoredTensor, StoredType};
use crate::{WeightsError, scales};

/// Where one tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Stored type; that of the first part where parts of rows differ.
    pub dtype: StoredType,
    /// Whether its values are multiplied by a scale that the file stores beside them.
    pub scaled: bool,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The file that holds it.
    pub file: PathBuf,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) shape: Vec<usize>,
    /// Where the bytes lie: one place, or one per part of rows that a file stores split.
    pub(crate) parts: Vec<Part>,
}

#[derive(Clone)]
pub(crate) struct Part {
    shard: usize,
    start: usize,
    end: usize,
    elements: usize,
    pub(crate) kind: StoredType,
    pub(crate) scale: Option<Scale>,
}

#[derive(Clone)]
struct Shard {
    path: PathBuf,
    /// Mapped.
    memory: Arc<HostMemory>,
}

/// A file of tensors (safetensors, GGUF, or what `torch.save` writes), or the safetensors shards of a
/// directory, memory-mapped.
///
/// Opening reads and checks headers only; tensor data is paged in when asked for. Clones share the
/// maps. Scales of fp8 and int8 weights are no tensors of their own: they belong to the weights.
#[derive(Clone)]
pub struct WeightFiles {
    pub(crate) path: PathBuf,
    shards: Vec<Shard>,
    pub(crate) entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl std::fmt::Debug for WeightFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeightFiles")
            .field("path", &self.path)
            .field("tensors", &self.entries.len())
            .finish()
    }
}

impl WeightFiles {
    /// Opens a file, or a directory that holds either a shard index
    /// (`*.safetensors.index.json`) or exactly one file of weights.
    ///
    /// # Errors
    /// [`WeightsError`] names the file and, where there is one, the key: absent files, files of
    /// another format, truncated data, an index that contradicts its shards, packed types that are not
    /// read.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut files = Self {
            path: path.to_path_buf(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        if path.is_dir() {
            files.open_directory(path)?;
        } else {
            files.add_shard(path)?;
        }
        scales::attach(&mut files)?;
        Ok(files)
    }

    fn open_directory(&mut self, path: &Path) -> Result<(), WeightsError> {
        let (index, mut singles) = list_directory(path)?;
        match (index, singles.len()) {
            (Some(index), _) => self.open_index(&index),
            (None, 1) => self.add_shard(&singles.remove(0)),
            (None, 0) => Err(WeightsError::NoWeights {
                path: path.to_path_buf(),
            }),
            (None, n) => Err(WeightsError::BadIndex {
                path: path.to_path_buf(),
                reason: format!(
                    "{n} safetensors files and no *.safetensors.index.json that says how they belong together"
                ),
            }),
        }
    }

    fn open_index(&mut self, index: &Path) -> Result<(), WeightsError> {
        let text = std::fs::read_to_string(index).map_err(|e| WeightsError::io(index, e))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| index_error(index, e.to_string()))?;
        let map = json
            .get("weight_map")
            .and_then(|v| v.as_object())
            .ok_or_else(|| index_error(index, "no object named weight_map".into()))?;
        let mut expected = BTreeMap::new();
        for (key, shard) in map {
            let shard = shard
                .as_str()
                .ok_or_else(|| index_error(index, format!("the shard of {key} is not a string")))?;
            // A shard name is a file beside the index, never a path that leaves the directory.
            if shard.contains(['/', '\\']) || shard == ".." {
                return Err(index_error(
                    index,
                    format!("{shard} is not a plain file name"),
                ));
            }
            expected.insert(key.clone(), shard.to_string());
        }
        if expected.is_empty() {
            return Err(index_error(index, "weight_map is empty".into()));
        }
        let directory = index.parent().unwrap_or(Path::new("."));
        let mut names: Vec<&String> = expected.values().collect();
        names.sort();
        names.dedup();
        for name in names {
            let file = directory.join(name);
            if !file.is_file() {
                return Err(WeightsError::MissingShard {
                    path: index.to_path_buf(),
                    shard: name.clone(),
                });
            }
            self.add_shard(&file)?;
        }
        for (key, shard) in &expected {
            let found = self
                .entries
                .get(key)
                .is_some_and(|e| self.file_of(e).file_name() == Some(shard.as_ref()));
            if !found {
                return Err(WeightsError::MissingInShard {
                    path: index.to_path_buf(),
                    key: key.clone(),
                    shard: shard.clone(),
                });
            }
        }
        Ok(())
    }

    fn add_shard(&mut self, path: &Path) -> Result<(), WeightsError> {
        let file = File::open(path).map_err(|e| WeightsError::io(path, e))?;
        // SAFETY: the map is read-only; as with every memory-mapped reader, another process that
        // truncates the file meanwhile can raise SIGBUS, which is the documented trade-off.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| WeightsError::io(path, e))?;
        let header = format::read(path, &map)?;
        let shard = self.shards.len();
        for tensor in header.tensors {
            let key = tensor.key;
            checks::check_name(path, &key)?;
            let part = Part {
                shard,
                start: tensor.bytes.start,
                end: tensor.bytes.end,
                elements: tensor.shape.iter().product(),
                kind: tensor.kind,
                scale: None,
            };
            let entry = Entry {
                shape: tensor.shape,
                parts: vec![part],
            };
            if let Some(other) = self.entries.insert(key.clone(), entry) {
                let place = match other.parts[0].shard == shard {
                    true => "there twice".into(),
                    false => format!("also in {}", self.file_of(&other).display()),
                };
                return Err(WeightsError::BadIndex {
                    path: path.to_path_buf(),
                    reason: format!("{key} is {place}"),
                });
            }
        }
        if shard == 0 {
            self.metadata = header.metadata;
        }
        self.shards.push(Shard {
            path: path.to_path_buf(),
            memory: Arc::new(HostMemory::new(map)),
        });
        Ok(())
    }

    /// The file or directory that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors, in order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path())
    }

    /// All tensor names, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Type, shape and file of a tensor.
    pub fn info(&self, key: &str) -> Option<TensorInfo> {
        self.entries.get(key).map(|e| TensorInfo {
            dtype: e.parts[0].kind,
            scaled: e.parts.iter().any(|part| part.scale.is_some()),
            shape: e.shape.clone(),
            file: self.file_of(e).to_path_buf(),
        })
    }

    /// The shape of a tensor that tells sizes of a model: `D` dimensions, none of them empty, so that no
    /// size exceeds what the file holds.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`]; [`WeightsError::Unsupported`] for another shape, with the name of
    /// the `model`.
    pub fn shape_of<const D: usize>(
        &self,
        key: &str,
        model: &str,
    ) -> Result<[usize; D], WeightsError> {
        let shape = &self.entry(key)?.shape;
        match <[usize; D]>::try_from(shape.as_slice()) {
            Ok(sizes) if !sizes.contains(&0) => Ok(sizes),
            _ => Err(WeightsError::Unsupported {
                path: self.place(key),
                key: key.to_string(),
                reason: format!("it has shape {shape:?}, which is not that of {model}"),
            }),
        }
    }

    /// The strings that the (first) file holds beside its tensors: `__metadata__` of safetensors, simple
    /// values of GGUF.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The stored bytes of a tensor (little endian, row-major), before its scale; borrowed from the map
    /// unless it has several parts.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`].
    pub fn bytes(&self, key: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        Ok(match self.entry(key)?.parts.as_slice() {
            [whole] => self.slice(whole).into(),
            parts => {
                let parts: Vec<&[u8]> = parts.iter().map(|part| self.slice(part)).collect();
                parts.concat().into()
            }
        })
    }

    /// As [`Self::bytes`], for devices to copy from: the map itself unless there are several parts.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`].
    pub fn host_bytes(&self, key: &str) -> Result<HostBytes, WeightsError> {
        Ok(match self.entry(key)?.parts.as_slice() {
            [whole] => {
                let memory = &self.shards[whole.shard].memory;
                HostBytes::new(memory, whole.start..whole.end)
            }
            _ => self.bytes(key)?.into_owned().into(),
        })
    }

    fn slice(&self, part: &Part) -> &[u8] {
        &self.shards[part.shard].memory.bytes()[part.start..part.end]
    }

    /// The same files with other tensors of them.
    pub(crate) fn with_entries(&self, entries: BTreeMap<String, Entry>) -> Self {
        Self {
            entries,
            ..self.clone()
        }
    }

    /// A tensor as it is stored, to be unpacked.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`]; [`WeightsError::WrongDtype`] where the values are no numbers
    /// of weights, such as integers without a scale.
    pub fn stored(&self, key: &str) -> Result<StoredTensor<'_>, WeightsError> {
        let entry = self.entry(key)?;
        let parts = entry.parts.iter().map(|part| {
            if !part.kind.is_readable(part.scale.is_some()) {
                return Err(WeightsError::WrongDtype {
                    path: self.file_of(entry).to_path_buf(),
                    key: key.to_string(),
                    dtype: part.kind.to_string(),
                });
            }
            Ok(StoredPart {
                kind: part.kind,
                bytes: self.slice(part),
                elements: part.elements,
                scale: part.scale.clone(),
            })
        });
        Ok(StoredTensor {
            shape: entry.shape.clone(),
            parts: parts.collect::<Result<_, _>>()?,
        })
    }

    /// A tensor of weights, checked to hold finite values only: in its stored type where that is F64,
    /// F32, F16 or BF16, else unpacked to F32.
    ///
    /// # Errors
    /// As [`Self::stored`], and [`WeightsError::NotFinite`].
    pub fn tensor_data(&self, key: &str) -> Result<TensorData, WeightsError> {
        self.tensor_data_in(key, None)
    }

    /// As [`Self::tensor_data`], in another of those types: every value is rounded once.
    ///
    /// # Errors
    /// As [`Self::tensor_data`].
    pub fn tensor_data_in(
        &self,
        key: &str,
        dtype: Option<DType>,
    ) -> Result<TensorData, WeightsError> {
        let stored = self.stored(key)?;
        let natural = stored.natural_dtype();
        let dtype = dtype.unwrap_or(natural);
        // Values of 64 bits do not pass through the 32 of unpacking.
        let direct = stored.float() == Some(dtype) || natural == DType::F64;
        let bytes = match direct {
            true => self.finite_bytes(key)?.0.into_owned(),
            false => self.unpacked(key, &stored, dtype)?,
        };
        let made = if direct { natural } else { dtype };
        let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), stored.shape, made);
        Ok(if made == dtype {
            data
        } else {
            data.convert_dtype(dtype)
        })
    }

    fn unpacked(
        &self,
        key: &str,
        stored: &StoredTensor<'_>,
        dtype: DType,
    ) -> Result<Vec<u8>, WeightsError> {
        stored
            .unpack(dtype)
            .map_err(|index| self.not_finite(key, index))
    }

    /// Bytes and shape of a tensor whose stored values are finite floats of one type.
    pub(crate) fn finite_bytes(
        &self,
        key: &str,
    ) -> Result<(Cow<'_, [u8]>, &[usize]), WeightsError> {
        let bytes = self.bytes(key)?;
        let entry = self.entry(key)?;
        let dtype = entry.parts[0].kind.float();
        match dtype.and_then(|dtype| first_not_finite(&bytes, dtype)) {
            None => Ok((bytes, &entry.shape)),
            Some(index) => Err(self.not_finite(key, index)),
        }
    }

    pub(crate) fn not_finite(&self, key: &str, index: usize) -> WeightsError {
        WeightsError::NotFinite {
            path: self.place(key),
            key: key.to_string(),
            index,
        }
    }

    /// The file of a tensor.
    pub(crate) fn place(&self, key: &str) -> PathBuf {
        let entry = self.entries.get(key);
        entry
            .map_or(&self.path, |e| &self.shards[e.parts[0].shard].path)
            .clone()
    }

    /// How many bytes a tensor takes in the file.
    pub fn stored_bytes(&self, key: &str) -> usize {
        let parts = self.entries.get(key).map_or(&[][..], |entry| &entry.parts);
        parts.iter().map(|part| part.end - part.start).sum()
    }

    /// How many bytes a tensor takes once it is loaded as `dtype`.
    pub(crate) fn loaded_bytes(&self, key: &str, dtype: Option<DType>) -> usize {
        let parts = self.entries.get(key).map_or(&[][..], |entry| &entry.parts);
        let size = |part: &Part| dtype.or(part.kind.float()).unwrap_or(DType::F32).size();
        parts.iter().map(|part| part.elements * size(part)).sum()
    }

    fn file_of(&self, entry: &Entry) -> &Path {
        &self.shards[entry.parts[0].shard].path
    }

    fn entry(&self, key: &str) -> Result<&Entry, WeightsError> {
        self.entries
            .get(key)
            .ok_or_else(|| WeightsError::MissingTensor {
                path: self.path.clone(),
                key: key.to_string(),
            })
    }
}

fn list_directory(path: &Path) -> Result<(Option<PathBuf>, Vec<PathBuf>), WeightsError> {
    let (mut index, mut singles, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(|e| WeightsError::io(path, e))? {
        let file = entry.map_err(|e| WeightsError::io(path, e))?.path();
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned());
        match name {
            Some(n) if n.ends_with(".safetensors.index.json") => index.push(file),
            Some(n) if n.ends_with(".safetensors") => singles.push(file),
            Some(n) if OTHER_ENDINGS.iter().any(|end| n.ends_with(end)) => others.push(file),
            _ => {}
        }
    }
    if index.len() > 1 {
        return Err(WeightsError::BadIndex {
            path: path.to_path_buf(),
            reason: format!("{} shard indexes in one directory", index.len()),
        });
    }
    if singles.is_empty() {
        singles = others;
    }
    singles.sort();
    Ok((index.pop(), singles))
}
