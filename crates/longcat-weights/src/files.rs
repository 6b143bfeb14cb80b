//! Reading safetensors: memory-mapped files and shards, checked before use.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Bytes, DType, TensorData};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::error::index_error;
use crate::{NameMap, WeightsError};

/// Where one tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Stored type.
    pub dtype: Dtype,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The file that holds it.
    pub file: PathBuf,
}

#[derive(Clone)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where the bytes lie: one place, or one per part of rows that a file stores split.
    parts: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    shard: usize,
    start: usize,
    end: usize,
}

#[derive(Clone)]
struct Shard {
    path: PathBuf,
    map: Arc<Mmap>,
}

/// One safetensors file, or the shards of a directory, memory-mapped.
///
/// Opening reads and checks headers only; tensor data is paged in when asked for. Clones share the
/// maps.
#[derive(Clone)]
pub struct WeightFiles {
    path: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
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
    /// Opens a safetensors file, or a directory that holds either a shard index
    /// (`*.safetensors.index.json`) or exactly one safetensors file.
    ///
    /// # Errors
    /// [`WeightsError`] names the file and, where there is one, the key: absent files, files that
    /// are not safetensors, truncated data, an index that contradicts its shards.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut files = Self {
            path: path.to_path_buf(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        if !path.is_dir() {
            files.add_shard(path)?;
            return Ok(files);
        }
        let (index, mut singles) = list_directory(path)?;
        match (index, singles.len()) {
            (Some(index), _) => files.open_index(&index)?,
            (None, 1) => files.add_shard(&singles.remove(0))?,
            (None, 0) => {
                return Err(WeightsError::NoWeights {
                    path: path.to_path_buf(),
                });
            }
            (None, n) => {
                return Err(WeightsError::BadIndex {
                    path: path.to_path_buf(),
                    reason: format!(
                        "{n} safetensors files and no *.safetensors.index.json that says how they belong together"
                    ),
                });
            }
        }
        Ok(files)
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
        let (header, metadata) = read_header(path, &map)?;
        let data_start = map.len() - header.1;
        let shard = self.shards.len();
        for (key, info) in header.0 {
            let entry = Entry {
                dtype: info.0,
                shape: info.1,
                parts: vec![Part {
                    shard,
                    start: data_start + info.2,
                    end: data_start + info.3,
                }],
            };
            if let Some(other) = self.entries.insert(key.clone(), entry) {
                return Err(WeightsError::BadIndex {
                    path: path.to_path_buf(),
                    reason: format!("{key} is also in {}", self.file_of(&other).display()),
                });
            }
        }
        if shard == 0 {
            self.metadata = metadata;
        }
        self.shards.push(Shard {
            path: path.to_path_buf(),
            map: Arc::new(map),
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
            dtype: e.dtype,
            shape: e.shape.clone(),
            file: self.file_of(e).to_path_buf(),
        })
    }

    /// The `__metadata__` strings of the (first) file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The stored bytes of a tensor (little endian, row-major); borrowed from the map unless it has
    /// several parts.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`].
    pub fn bytes(&self, key: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let slice = |part: &Part| &self.shards[part.shard].map[part.start..part.end];
        Ok(match self.entry(key)?.parts.as_slice() {
            [whole] => slice(whole).into(),
            parts => parts.iter().map(slice).collect::<Vec<_>>().concat().into(),
        })
    }

    /// The same tensors under other names.
    ///
    /// Names that `names` turns into `key#0`, `key#1`, … become one tensor `key` with the rows of
    /// the parts one after another.
    ///
    /// # Errors
    /// [`WeightsError::BadIndex`] when two tensors get one name, or parts are missing or differ in
    /// type or row shape.
    pub fn renamed(&self, names: &NameMap) -> Result<Self, WeightsError> {
        let bad = |reason: String| WeightsError::BadIndex {
            path: self.path.clone(),
            reason,
        };
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        let mut split: BTreeMap<String, BTreeMap<usize, &Entry>> = BTreeMap::new();
        for (old, entry) in &self.entries {
            let name = names.map(old);
            let taken = match name.rsplit_once('#').map(|(n, j)| (n, j.parse::<usize>())) {
                Some((name, Ok(part))) => {
                    let parts = split.entry(name.to_string()).or_default();
                    parts.insert(part, entry).is_some()
                }
                _ => entries.insert(name.clone(), entry.clone()).is_some(),
            };
            if taken {
                return Err(bad(format!("two tensors are called {name}")));
            }
        }
        for (name, parts) in split {
            let count = parts.len();
            let mut fused: Option<Entry> = None;
            for (expected, (index, part)) in parts.into_iter().enumerate() {
                let fits = fused.as_ref().is_none_or(|f| {
                    f.dtype == part.dtype && f.shape.get(1..) == part.shape.get(1..)
                });
                if index != expected || !fits || part.shape.is_empty() {
                    return Err(bad(format!(
                        "part {expected} of {name} is missing or differs in type or row shape \
                         ({count} parts found)"
                    )));
                }
                match &mut fused {
                    None => fused = Some(part.clone()),
                    Some(fused) => {
                        fused.shape[0] += part.shape[0];
                        fused.parts.extend(part.parts.iter().cloned());
                    }
                }
            }
            if let Some(fused) = fused
                && entries.insert(name.clone(), fused).is_some()
            {
                return Err(bad(format!("two tensors are called {name}")));
            }
        }
        Ok(Self {
            entries,
            ..self.clone()
        })
    }

    /// A floating-point tensor in its stored type, checked to hold finite values only.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`], [`WeightsError::WrongDtype`] for anything but
    /// F64, F32, F16 and BF16, [`WeightsError::NotFinite`].
    pub fn tensor_data(&self, key: &str) -> Result<TensorData, WeightsError> {
        let dtype = self.float_dtype(key)?;
        let (bytes, shape) = self.finite_bytes(key)?;
        let bytes = Bytes::from_bytes_vec(bytes.into_owned());
        Ok(TensorData::from_bytes(bytes, shape.to_vec(), dtype))
    }

    /// Bytes and shape of a floating-point tensor that holds finite values only.
    pub(crate) fn finite_bytes(
        &self,
        key: &str,
    ) -> Result<(Cow<'_, [u8]>, &[usize]), WeightsError> {
        let bytes = self.bytes(key)?;
        let entry = self.entry(key)?;
        match first_not_finite(&bytes, self.float_dtype(key)?) {
            None => Ok((bytes, &entry.shape)),
            Some(index) => Err(WeightsError::NotFinite {
                path: self.file_of(entry).to_path_buf(),
                key: key.to_string(),
                index,
            }),
        }
    }

    pub(crate) fn float_dtype(&self, key: &str) -> Result<DType, WeightsError> {
        let entry = self.entry(key)?;
        match entry.dtype {
            Dtype::F64 => Ok(DType::F64),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            other => Err(WeightsError::WrongDtype {
                path: self.file_of(entry).to_path_buf(),
                key: key.to_string(),
                dtype: format!("{other:?}"),
            }),
        }
    }

    /// How many bytes a tensor takes in the file; 0 where there is none.
    pub(crate) fn stored_bytes(&self, key: &str) -> usize {
        let parts = self.entries.get(key).map_or(&[][..], |entry| &entry.parts);
        parts.iter().map(|part| part.end - part.start).sum()
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
    let mut index = Vec::new();
    let mut singles = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| WeightsError::io(path, e))? {
        let file = entry.map_err(|e| WeightsError::io(path, e))?.path();
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned());
        match name {
            Some(n) if n.ends_with(".safetensors.index.json") => index.push(file),
            Some(n) if n.ends_with(".safetensors") => singles.push(file),
            _ => {}
        }
    }
    if index.len() > 1 {
        return Err(WeightsError::BadIndex {
            path: path.to_path_buf(),
            reason: format!("{} shard indexes in one directory", index.len()),
        });
    }
    singles.sort();
    Ok((index.pop(), singles))
}

type HeaderEntries = Vec<(String, (Dtype, Vec<usize>, usize, usize))>;

/// Parses and checks a header. Returns the entries, the length of the data section, the metadata.
#[allow(clippy::type_complexity)]
fn read_header(
    path: &Path,
    map: &[u8],
) -> Result<((HeaderEntries, usize), BTreeMap<String, String>), WeightsError> {
    let not_safetensors = |reason: &str| WeightsError::NotSafetensors {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    };
    // A header's length can begin with the same bytes as a pickle; its JSON then follows at byte 8.
    let pickle = [&b"PK\x03\x04"[..], b"\x80\x02", b"\x80\x04"];
    if map.get(8) != Some(&b'{') && pickle.iter().any(|magic| map.starts_with(magic)) {
        return Err(not_safetensors(
            "it is a Python pickle, which is never executed here",
        ));
    }
    let Some(prefix) = map.first_chunk::<8>() else {
        return Err(not_safetensors("shorter than a header"));
    };
    // The length field precedes a JSON object: anything else is another format, while an object
    // that is cut off is a damaged safetensors file.
    if map.get(8).is_some_and(|b| *b != b'{') || u64::from_le_bytes(*prefix) > 100_000_000 {
        return Err(not_safetensors("no JSON header"));
    }
    let corrupt = |reason: String| WeightsError::Corrupt {
        path: path.to_path_buf(),
        reason,
    };
    let (header_len, metadata) =
        SafeTensors::read_metadata(map).map_err(|e| corrupt(e.to_string()))?;
    let data_len = metadata.data_len();
    if 8 + header_len + data_len != map.len() {
        return Err(corrupt(format!(
            "the header announces {data_len} bytes of data, {} are there",
            map.len().saturating_sub(8 + header_len)
        )));
    }
    let entries = metadata
        .tensors()
        .into_iter()
        .map(|(key, info)| {
            let (start, end) = info.data_offsets;
            (key, (info.dtype, info.shape.clone(), start, end))
        })
        .collect();
    let strings = metadata
        .metadata()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    Ok(((entries, data_len), strings))
}

/// Index of the first NaN or infinity in little-endian floats, by their exponent bits.
fn first_not_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    match dtype {
        DType::F64 => first(bytes, |x| u64::from_le_bytes(x) << 1 >= 0x7ff << 53),
        DType::F32 => first(bytes, |x| u32::from_le_bytes(x) << 1 >= 0xff << 24),
        DType::BF16 => first(bytes, |x| u16::from_le_bytes(x) << 1 >= 0xff << 8),
        DType::F16 => first(bytes, |x| u16::from_le_bytes(x) << 1 >= 0x1f << 11),
        _ => None,
    }
}

/// Index of the first element that `matches`. Looks at runs without stopping inside, so that the
/// loop is one of vector instructions: this pass over a checkpoint is bound by memory.
fn first<const N: usize>(bytes: &[u8], matches: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const RUN: usize = 4096;
    let (elements, _) = bytes.as_chunks::<N>();
    let run = elements
        .chunks(RUN)
        .position(|run| run.iter().fold(false, |any, x| any | matches(*x)))?;
    let start = run * RUN;
    let offset = elements[start..].iter().position(|x| matches(*x))?;
    Some(start + offset)
}
