//! Files of `torch.save`: a zip file with a pickle of names and shapes, and the values beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;

use super::pickle::{Pickle, Tensor, Value, load};
use super::{RawFile, RawTensor, corrupt, elements, foreign, zip};
use crate::WeightsError;
use crate::stored::StoredType;

/// The pickle holds names, not values.
const LONGEST_PICKLE: usize = 100_000_000;

pub(super) fn read(path: &Path, map: &[u8]) -> Result<RawFile, WeightsError> {
    let entries = zip::entries(path, map)?;
    let mut pickles = entries.keys().filter(|name| name.ends_with("/data.pkl"));
    let (Some(pickle), None) = (pickles.next(), pickles.next()) else {
        return Err(foreign(
            path,
            "a zip file, but not one that PyTorch wrote: it has no data.pkl",
        ));
    };
    let folder = pickle.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(&format!("{folder}byteorder"))
        && map[order.clone()] != *b"little"
    {
        return Err(foreign(path, "written by a big-endian machine"));
    }
    let range = &entries[pickle];
    if range.len() > LONGEST_PICKLE {
        return Err(corrupt(path, "its pickle is longer than any list of names"));
    }
    let pickle = load(&map[range.clone()]).map_err(|reason| corrupt(path, reason))?;
    let tensors = state_dict(path, &pickle)?;
    let tensors = tensors
        .into_iter()
        .map(|(key, tensor)| place(path, &entries, folder, key, tensor));
    Ok(RawFile {
        tensors: tensors.collect::<Result<_, _>>()?,
        metadata: BTreeMap::new(),
    })
}

/// Tensors by their names.
type Tensors<'a> = Vec<(&'a str, &'a Tensor<'a>)>;

/// The tensors of the outermost dictionary, or of the only dictionary of tensors in it
/// (`state_dict`, `model`).
fn state_dict<'a>(path: &Path, pickle: &'a Pickle<'a>) -> Result<Tensors<'a>, WeightsError> {
    let Value::Dict(root) = pickle.root else {
        return Err(foreign(
            path,
            "a pickle of something else than a dictionary of tensors",
        ));
    };
    let own = tensors(path, pickle, root)?;
    if !own.is_empty() {
        return Ok(own);
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::from([root]));
    for (name, value) in &pickle.dicts[root] {
        if let Value::Dict(inner) = value
            && seen.insert(*inner)
        {
            let tensors = tensors(path, pickle, *inner)?;
            if !tensors.is_empty() {
                found.push((name.as_str(), tensors));
            }
        }
    }
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        return Err(foreign(
            path,
            format!(
                "it holds several models ({}); save one by itself",
                names.join(", ")
            ),
        ));
    }
    match found.pop() {
        Some((_, tensors)) => Ok(tensors),
        None => Err(foreign(path, "a pickle without tensors")),
    }
}

/// The tensors of one dictionary. An object that would have to be made by running code cannot stand
/// among them.
fn tensors<'a>(
    path: &Path,
    pickle: &'a Pickle<'a>,
    dict: usize,
) -> Result<Tensors<'a>, WeightsError> {
    let (mut tensors, mut object) = (Vec::new(), None);
    for (key, value) in &pickle.dicts[dict] {
        match value {
            Value::Tensor(tensor) => tensors.push((key.as_str(), &pickle.tensors[*tensor])),
            Value::Object(name) => object = Some((key, name)),
            _ => {}
        }
    }
    match object {
        Some((key, name)) if !tensors.is_empty() => Err(WeightsError::Unsupported {
            path: path.to_path_buf(),
            key: key.clone(),
            reason: format!("it is an object of {name}; nothing is executed to make one"),
        }),
        _ => Ok(tensors),
    }
}

fn place(
    path: &Path,
    entries: &BTreeMap<String, Range<usize>>,
    folder: &str,
    key: &str,
    tensor: &Tensor<'_>,
) -> Result<RawTensor, WeightsError> {
    let unsupported = |reason: String| WeightsError::Unsupported {
        path: path.to_path_buf(),
        key: key.to_string(),
        reason,
    };
    let kind = dtype(tensor.dtype)
        .map(StoredType::Plain)
        .ok_or_else(|| unsupported(format!("its type {} is not read", tensor.dtype)))?;
    if !is_contiguous(&tensor.shape, &tensor.strides) {
        return Err(unsupported(
            "its values do not follow each other; save it with .contiguous()".into(),
        ));
    }
    let outside = || corrupt(path, format!("{key} lies outside of its storage"));
    let storage = entries
        .get(&format!("{folder}data/{}", tensor.storage))
        .ok_or_else(outside)?;
    let skipped = kind.bytes_of(tensor.offset).ok_or_else(outside)?;
    let size = elements(&tensor.shape)
        .and_then(|n| kind.bytes_of(n))
        .ok_or_else(outside)?;
    let end = skipped.checked_add(size).ok_or_else(outside)?;
    if end > storage.len() {
        return Err(outside());
    }
    Ok(RawTensor {
        key: key.to_string(),
        kind,
        shape: tensor.shape.clone(),
        bytes: storage.start + skipped..storage.start + end,
    })
}

/// Whether values lie in row-major order without gaps. Steps along dimensions of one do not count.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(size, stride)| {
            let fits = *size <= 1 || *stride == expected;
            expected = expected.saturating_mul(*size);
            fits
        })
}

/// Types by the names of storages (`FloatStorage`) and of types (`float8_e4m3fn`).
fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "DoubleStorage" | "float64" => Dtype::F64,
        "FloatStorage" | "float32" => Dtype::F32,
        "HalfStorage" | "float16" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "LongStorage" | "int64" => Dtype::I64,
        "IntStorage" | "int32" => Dtype::I32,
        "ShortStorage" | "int16" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::BOOL,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        _ => return None,
    })
}
