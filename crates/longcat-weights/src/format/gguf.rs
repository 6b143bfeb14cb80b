//! Headers of GGUF files, versions 2 and 3.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use longcat_kernels::PackedKind;
use safetensors::Dtype;

use super::{ORIGINAL_SHAPE, RawFile, RawTensor, corrupt, elements, foreign};
use crate::WeightsError;
use crate::stored::StoredType;

/// More dimensions than any tensor of a model has.
const MOST_DIMENSIONS: u32 = 8;
/// Arrays of arrays nest no deeper in any file.
const DEEPEST_ARRAY: usize = 4;

pub(super) fn read(path: &Path, map: &[u8]) -> Result<RawFile, WeightsError> {
    let mut header = Reader {
        path,
        map,
        at: b"GGUF".len(),
    };
    let version = header.u32()?;
    if !matches!(version, 2 | 3) {
        // Of a big-endian file the bytes are the other way round.
        return Err(foreign(
            path,
            format!("GGUF version {version}; versions 2 and 3, little endian, are read"),
        ));
    }
    let (tensor_count, value_count) = (header.u64()?, header.u64()?);
    let mut metadata = BTreeMap::new();
    let mut shapes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for _ in 0..value_count {
        let key = header.string()?;
        match header.value(0)? {
            Value::Text(text) => {
                metadata.insert(key, text);
            }
            Value::Integers(numbers) => {
                if let Some(tensor) = key.strip_prefix(ORIGINAL_SHAPE) {
                    shapes.insert(tensor.to_string(), numbers);
                }
            }
            Value::Other => {}
        }
    }
    if metadata
        .get("split.count")
        .is_some_and(|n| n != "0" && n != "1")
    {
        return Err(foreign(
            path,
            "one part of a GGUF file that was split; join them first with llama-gguf-split --merge",
        ));
    }
    let mut tensors = Vec::new();
    let mut names = BTreeSet::new();
    for _ in 0..tensor_count {
        let tensor = header.tensor()?;
        if !names.insert(tensor.key.clone()) {
            return Err(corrupt(path, format!("{} is there twice", tensor.key)));
        }
        tensors.push(tensor);
    }
    let alignment = metadata
        .get("general.alignment")
        .map_or(Ok(32), |text| text.parse::<usize>())
        .ok()
        .filter(|n| n.is_power_of_two())
        .ok_or_else(|| corrupt(path, "general.alignment is no power of two"))?;
    let data = header
        .at
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| corrupt(path, format!("general.alignment is {alignment}")))?;
    for tensor in &mut tensors {
        place(path, map.len(), data, alignment, tensor)?;
        if let Some(shape) = shapes.remove(&tensor.key) {
            if elements(&shape) != elements(&tensor.shape) {
                return Err(corrupt(
                    path,
                    format!(
                        "{} is stored as {:?}, which is not {shape:?}",
                        tensor.key, tensor.shape
                    ),
                ));
            }
            tensor.shape = shape;
        }
    }
    Ok(RawFile { tensors, metadata })
}

/// Turns the place of a tensor after the header into one in the file, and checks it.
fn place(
    path: &Path,
    length: usize,
    data: usize,
    alignment: usize,
    tensor: &mut RawTensor,
) -> Result<(), WeightsError> {
    let key = &tensor.key;
    let row = tensor.shape.last().copied().unwrap_or(1);
    let size = elements(&tensor.shape).and_then(|n| tensor.kind.bytes_of(n));
    let (Some(size), Some(_)) = (size, tensor.kind.bytes_of(row)) else {
        return Err(corrupt(
            path,
            format!(
                "{key} of shape {:?} does not consist of whole rows of {}",
                tensor.shape, tensor.kind
            ),
        ));
    };
    let start = data.checked_add(tensor.bytes.start);
    let end = start.and_then(|start| start.checked_add(size));
    match (start, end) {
        (Some(start), Some(end))
            if end <= length && tensor.bytes.start.is_multiple_of(alignment) =>
        {
            tensor.bytes = start..end;
            Ok(())
        }
        _ => Err(corrupt(
            path,
            format!("{key} lies outside of the file, which has {length} bytes"),
        )),
    }
}

/// A value of the header.
enum Value {
    /// A string, number or flag as text.
    Text(String),
    /// A short list of numbers that are not negative.
    Integers(Vec<usize>),
    /// A value that is not needed.
    Other,
}

struct Reader<'a> {
    path: &'a Path,
    map: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], WeightsError> {
        let end = self.at.checked_add(count);
        let bytes = end.and_then(|end| self.map.get(self.at..end));
        let bytes = bytes.ok_or_else(|| corrupt(self.path, "the header ends too early"))?;
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WeightsError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, WeightsError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WeightsError> {
        self.array().map(u64::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, WeightsError> {
        let size = self.u64()?;
        usize::try_from(size).map_err(|_| corrupt(self.path, format!("a size of {size}")))
    }

    fn string(&mut self) -> Result<String, WeightsError> {
        let length = self.size()?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => Err(corrupt(self.path, "a name is not UTF-8")),
        }
    }

    /// A value with its type before it, inside of `depth` arrays.
    fn value(&mut self, depth: usize) -> Result<Value, WeightsError> {
        let kind = self.u32()?;
        self.value_of(kind, depth)
    }

    fn value_of(&mut self, kind: u32, depth: usize) -> Result<Value, WeightsError> {
        let text = match kind {
            0 => u8::from_le_bytes(self.array()?).to_string(),
            1 => i8::from_le_bytes(self.array()?).to_string(),
            2 => u16::from_le_bytes(self.array()?).to_string(),
            3 => i16::from_le_bytes(self.array()?).to_string(),
            4 => self.u32()?.to_string(),
            5 => i32::from_le_bytes(self.array()?).to_string(),
            6 => f32::from_le_bytes(self.array()?).to_string(),
            7 => (self.array()? != [0]).to_string(),
            8 => self.string()?,
            9 => return self.values(depth),
            10 => self.u64()?.to_string(),
            11 => i64::from_le_bytes(self.array()?).to_string(),
            12 => f64::from_le_bytes(self.array()?).to_string(),
            other => {
                let reason = format!("a value of the unknown type {other}");
                return Err(corrupt(self.path, reason));
            }
        };
        Ok(Value::Text(text))
    }

    fn values(&mut self, depth: usize) -> Result<Value, WeightsError> {
        if depth == DEEPEST_ARRAY {
            return Err(corrupt(self.path, "arrays nest too deeply"));
        }
        let (kind, count) = (self.u32()?, self.size()?);
        // Vocabularies have hundreds of thousands of entries, which are passed over.
        let short = count <= MOST_DIMENSIONS as usize;
        let mut numbers = Vec::new();
        for _ in 0..count {
            match self.value_of(kind, depth + 1)? {
                Value::Text(text) if short => numbers.extend(text.parse::<usize>()),
                _ => {}
            }
        }
        Ok(match numbers.len() == count {
            true => Value::Integers(numbers),
            false => Value::Other,
        })
    }

    /// A tensor's entry; its place counts from the end of the header.
    fn tensor(&mut self) -> Result<RawTensor, WeightsError> {
        let key = self.string()?;
        let dimensions = self.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(corrupt(
                self.path,
                format!("{key} has {dimensions} dimensions"),
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.size()?);
        }
        // The innermost dimension comes first.
        shape.reverse();
        let kind = self.u32()?;
        let kind = stored_type(kind).ok_or_else(|| WeightsError::Unsupported {
            path: self.path.to_path_buf(),
            key: key.clone(),
            reason: format!(
                "it is stored as {}; of GGUF's types F64, F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q3_K, \
                 Q2_K, Q5_1, Q5_0, Q4_1 and Q4_0 are read",
                name(kind)
            ),
        })?;
        let start = self.size()?;
        Ok(RawTensor {
            key,
            kind,
            shape,
            bytes: start..start,
        })
    }
}

/// GGUF's numbers of the types that are read.
const TYPES: [(u32, StoredType); 18] = [
    (0, StoredType::Plain(Dtype::F32)),
    (1, StoredType::Plain(Dtype::F16)),
    (2, StoredType::Block(PackedKind::Q4_0)),
    (3, StoredType::Block(PackedKind::Q4_1)),
    (6, StoredType::Block(PackedKind::Q5_0)),
    (7, StoredType::Block(PackedKind::Q5_1)),
    (8, StoredType::Block(PackedKind::Q8_0)),
    (10, StoredType::Block(PackedKind::Q2_K)),
    (11, StoredType::Block(PackedKind::Q3_K)),
    (12, StoredType::Block(PackedKind::Q4_K)),
    (13, StoredType::Block(PackedKind::Q5_K)),
    (14, StoredType::Block(PackedKind::Q6_K)),
    (24, StoredType::Plain(Dtype::I8)),
    (25, StoredType::Plain(Dtype::I16)),
    (26, StoredType::Plain(Dtype::I32)),
    (27, StoredType::Plain(Dtype::I64)),
    (28, StoredType::Plain(Dtype::F64)),
    (30, StoredType::Plain(Dtype::BF16)),
];

fn stored_type(number: u32) -> Option<StoredType> {
    let found = TYPES.iter().find(|(other, _)| *other == number);
    found.map(|(_, kind)| *kind)
}

/// GGUF's number of a type, if it is one that is read.
pub(crate) fn type_number(kind: StoredType) -> Option<u32> {
    let found = TYPES.iter().find(|(_, other)| *other == kind);
    found.map(|(number, _)| *number)
}

/// What a type that is not read is called.
fn name(number: u32) -> String {
    let known = match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("type {other}"),
    };
    known.to_string()
}
