//! Scales of packed weights: which tensors belong to which, in every spelling that is in use.
//!
//! A layer `l` keeps its scale as `l.scale_weight` (ComfyUI's scaled fp8), `l.weight_scale`
//! (`comfy_quant`, the official int8 with `l.weight_int8`) or `l.weight._scale` (quanto, with
//! `l.weight._data`). Scales of activations are left out where the weight has one of its own: products
//! are those of floats here.

use std::sync::Arc;

use burn::tensor::DType;
use safetensors::Dtype;
use serde_json::Value;

use crate::files::Entry;
use crate::stored::{Scale, StoredType};
use crate::{WeightFiles, WeightsError};

/// A marker of ComfyUI's scaled fp8 files, of no or two values of the type.
const MARKER: &str = "scaled_fp8";
/// Longer than any description of one layer.
const LONGEST_DESCRIPTION: usize = 65_536;

/// Gives every packed weight its scale, and takes what only describes weights out of the tensors.
///
/// # Errors
/// [`WeightsError::Unsupported`] names the layer and how it is packed.
pub(crate) fn attach(files: &mut WeightFiles) -> Result<(), WeightsError> {
    let keys: Vec<String> = files.keys().map(String::from).collect();
    for key in &keys {
        for (spelling, proper) in [(".weight_int8", ".weight"), (".weight._data", ".weight")] {
            if let Some(layer) = key.strip_suffix(spelling) {
                rename(files, key, format!("{layer}{proper}"))?;
            }
        }
    }
    for key in &keys {
        if let Some(layer) = key.strip_suffix(".comfy_quant") {
            described(files, key, layer)?;
        } else if key.rsplit('.').next() == Some(MARKER) && is_marker(files, key) {
            files.entries.remove(key);
        }
    }
    described_in_metadata(files)?;
    for key in &keys {
        for spelling in [".scale_weight", ".weight_scale", ".weight._scale"] {
            if let Some(layer) = key.strip_suffix(spelling) {
                attach_one(files, key, &format!("{layer}.weight"))?;
            }
        }
        if let Some(layer) = key.strip_suffix(".weight_scale_2") {
            return Err(unsupported(files, layer, "nvfp4"));
        }
    }
    for key in &keys {
        for spelling in [".scale_input", ".input_scale", ".output_scale"] {
            let weight = key
                .strip_suffix(spelling)
                .map(|layer| format!("{layer}.weight"));
            let scaled = weight.and_then(|weight| files.entries.get(&weight));
            if scaled.is_some_and(|w| w.parts.iter().all(|part| part.scale.is_some())) {
                files.entries.remove(key);
            }
        }
    }
    Ok(())
}

fn unsupported(files: &WeightFiles, layer: &str, how: &str) -> WeightsError {
    WeightsError::Unsupported {
        path: files.path().to_path_buf(),
        key: layer.to_string(),
        reason: format!(
            "it is packed as {how}; read are float8_e4m3fn, float8_e5m2 and int8 with one scale for the \
             tensor, for each row or for equal parts of rows, and GGUF's blocks"
        ),
    }
}

fn rename(files: &mut WeightFiles, old: &str, new: String) -> Result<(), WeightsError> {
    let Some(entry) = files.entries.remove(old) else {
        return Ok(());
    };
    match files.entries.insert(new.clone(), entry) {
        None => Ok(()),
        Some(_) => Err(WeightsError::BadIndex {
            path: files.path().to_path_buf(),
            reason: format!("both {old} and {new} are there"),
        }),
    }
}

fn is_marker(files: &WeightFiles, key: &str) -> bool {
    files.entries.get(key).is_some_and(|entry| {
        let fp8 = [Dtype::F8_E4M3, Dtype::F8_E5M2].map(StoredType::Plain);
        fp8.contains(&entry.parts[0].kind) && entry.shape.iter().product::<usize>() <= 2
    })
}

/// `l.comfy_quant`: a JSON object in bytes.
fn described(files: &mut WeightFiles, key: &str, layer: &str) -> Result<(), WeightsError> {
    let bytes = files.bytes(key)?;
    let description = match bytes.len() <= LONGEST_DESCRIPTION {
        true => serde_json::from_slice(&bytes).ok(),
        false => None,
    };
    let Some(description) = description else {
        return Err(unsupported(
            files,
            layer,
            "something that is not described as JSON",
        ));
    };
    check_description(files, layer, &description)?;
    files.entries.remove(key);
    Ok(())
}

/// The same for all layers in the strings of the file.
fn described_in_metadata(files: &WeightFiles) -> Result<(), WeightsError> {
    let Some(text) = files.metadata().get("_quantization_metadata") else {
        return Ok(());
    };
    let json: Option<Value> = serde_json::from_str(text).ok();
    let layers = json
        .as_ref()
        .and_then(|json| json.get("layers")?.as_object());
    let Some(layers) = layers else {
        return Err(unsupported(
            files,
            "_quantization_metadata",
            "something that is not described as JSON",
        ));
    };
    layers
        .iter()
        .try_for_each(|(layer, description)| check_description(files, layer, description))
}

/// Whether a layer is packed as its type and scale alone say. What turns, groups or otherwise changes
/// values would be lost.
fn check_description(
    files: &WeightFiles,
    layer: &str,
    description: &Value,
) -> Result<(), WeightsError> {
    let format = description.get("format").and_then(Value::as_str);
    let stored = files
        .info(&format!("{layer}.weight"))
        .map(|info| info.dtype);
    let needed = match format {
        Some("float8_e4m3fn") => Dtype::F8_E4M3,
        Some("float8_e5m2") => Dtype::F8_E5M2,
        Some("int8_tensorwise" | "int8") => Dtype::I8,
        other => {
            return Err(unsupported(
                files,
                layer,
                other.unwrap_or("no known format"),
            ));
        }
    };
    if stored.is_some_and(|stored| stored != StoredType::Plain(needed)) {
        let how = format!("{} and stored as another type", format.unwrap_or_default());
        return Err(unsupported(files, layer, &how));
    }
    let harmless = |key: &str, value: &Value| {
        matches!(
            key,
            "format" | "full_precision_matrix_mult" | "per_row" | "orig_dtype" | "orig_shape"
        ) || matches!(value, Value::Bool(false) | Value::Null)
    };
    let other = description
        .as_object()
        .and_then(|keys| keys.iter().find(|(key, value)| !harmless(key, value)));
    match other {
        None => Ok(()),
        Some((key, value)) => {
            let how = format!("{} with {key} = {value}", format.unwrap_or_default());
            Err(unsupported(files, layer, &how))
        }
    }
}

/// Gives a weight the scale of `key`, which then is no tensor any more. A scale without a weight stays
/// a tensor, which loading reports.
fn attach_one(files: &mut WeightFiles, key: &str, weight: &str) -> Result<(), WeightsError> {
    let (Some(scale), Some(entry)) = (files.entries.get(key), files.entries.get(weight)) else {
        return Ok(());
    };
    if let StoredType::Plain(Dtype::F8_E4M3 | Dtype::F8_E8M0 | Dtype::U8) = scale.parts[0].kind {
        let layer = weight.trim_end_matches(".weight");
        return Err(unsupported(
            files,
            layer,
            "blocks with scales of 8 bits (mxfp8, nvfp4)",
        ));
    }
    let shapes = (scale.shape.clone(), entry.shape.clone());
    let Some(group) = group(&shapes.0, &shapes.1) else {
        return Err(WeightsError::Unsupported {
            path: files.place(key),
            key: key.to_string(),
            reason: format!(
                "its shape {:?} does not scale the tensor, rows or equal parts of rows of a weight {:?}",
                shapes.0, shapes.1
            ),
        });
    };
    let values = files.tensor_data_in(key, Some(DType::F32))?;
    let scale = Scale {
        values: Arc::from_iter(values.iter::<f32>()),
        group,
    };
    let doubled = || WeightsError::BadIndex {
        path: files.path().to_path_buf(),
        reason: format!("{weight} has two scales, {key} and another"),
    };
    let part: &Entry = entry;
    if part.parts[0].scale.is_some() {
        return Err(doubled());
    }
    files.entries.remove(key);
    if let Some(entry) = files.entries.get_mut(weight) {
        entry.parts[0].scale = Some(scale);
    }
    Ok(())
}

/// How many values that follow each other share one of the multipliers; `None` where shapes do not fit.
fn group(scale: &[usize], weight: &[usize]) -> Option<usize> {
    let count: usize = scale.iter().product();
    let elements: usize = weight.iter().product();
    if count == 1 {
        return Some(elements.max(1));
    }
    let rows = *weight.first()?;
    let columns = elements.checked_div(rows)?;
    let parts = count.checked_div(rows)?;
    let by_rows = scale.first() == Some(&rows) && count == rows * parts;
    (by_rows && parts > 0 && columns > 0 && columns.is_multiple_of(parts)).then(|| columns / parts)
}
