//! Headers of GGUF files, version 3.

use std::collections::BTreeMap;
use std::path::Path;

use super::{PlannedTensor, wrong_type};
use crate::WeightsError;
use crate::format::{ORIGINAL_SHAPE, type_number};
use crate::stored::StoredType;

/// Tensors begin at multiples of so many bytes.
pub(super) const ALIGNMENT: usize = 32;
/// More dimensions than these no reader of GGUF need know.
const MOST_DIMENSIONS: usize = 4;
const VERSION: u32 = 3;
/// Types of values in the header.
const INT32: u32 = 5;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Everything before the values. Tensors of more than four dimensions are flattened after the first one,
/// with their shape as ComfyUI-GGUF writes it.
pub(super) fn header(
    path: &Path,
    plan: &[PlannedTensor],
    bytes: &[usize],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, WeightsError> {
    let flat: Vec<&PlannedTensor> = plan
        .iter()
        .filter(|tensor| tensor.shape.len() > MOST_DIMENSIONS)
        .collect();
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    size(&mut out, plan.len());
    size(&mut out, metadata.len() + flat.len());
    for (key, value) in metadata {
        string(&mut out, key);
        out.extend(STRING.to_le_bytes());
        string(&mut out, value);
    }
    for tensor in flat {
        string(&mut out, &format!("{ORIGINAL_SHAPE}{}", tensor.name));
        out.extend(ARRAY.to_le_bytes());
        out.extend(INT32.to_le_bytes());
        size(&mut out, tensor.shape.len());
        for dimension in &tensor.shape {
            out.extend((*dimension as i32).to_le_bytes());
        }
    }
    let mut start = 0;
    for (tensor, bytes) in plan.iter().zip(bytes) {
        string(&mut out, &tensor.name);
        let shape = match tensor.shape.as_slice() {
            [first, rest @ ..] if tensor.shape.len() > MOST_DIMENSIONS => {
                vec![*first, rest.iter().product()]
            }
            shape => shape.to_vec(),
        };
        out.extend((shape.len() as u32).to_le_bytes());
        for dimension in shape.iter().rev() {
            size(&mut out, *dimension);
        }
        let number = number(tensor.kind).ok_or_else(|| wrong_type(path, tensor))?;
        out.extend(number.to_le_bytes());
        size(&mut out, start);
        start += bytes.next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    Ok(out)
}

fn size(out: &mut Vec<u8>, value: usize) {
    out.extend((value as u64).to_le_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    size(out, text.len());
    out.extend(text.bytes());
}

/// GGUF's number of a type of weights; integers are none.
fn number(kind: StoredType) -> Option<u32> {
    match kind {
        StoredType::Plain(_) => kind.float().and_then(|_| type_number(kind)),
        StoredType::Block(_) => type_number(kind),
    }
}
