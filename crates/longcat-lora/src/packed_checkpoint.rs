//! Merging adapters into the files of a checkpoint whose matrices are packed, and packing them again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use longcat_weights::{
    PlannedTensor, Quantization, StoredTensor, StoredType, WeightFiles, WeightsError, requantize,
    stream_weights,
};

use crate::checkpoint::{MergeProgress, MergeReport, Parameter, Weighted, rounded, staged};
use crate::{LoraError, Requantized, TargetTable};

/// As [`merge_into_checkpoint_with`](crate::merge_into_checkpoint_with), and matrices that are packed stay so:
/// those that an adapter changes are packed again in the same way, the others keep every bit.
///
/// Of several files one is made: safetensors, with scales as `longcat quantize` writes them, or GGUF.
///
/// # Errors
/// As [`merge_into_checkpoint_with`](crate::merge_into_checkpoint_with); [`LoraError::NotRequantized`] where
/// an adapter changes a matrix that is packed in a way in which nothing is packed here.
pub fn merge_into_packed_checkpoint(
    directory: &Path,
    adapters: &[Weighted],
    output: &Path,
    table: &TargetTable,
    progress: MergeProgress,
) -> Result<MergeReport, LoraError> {
    let mut requantized = Requantized::default();
    let mut report = staged(directory, adapters, output, table, |files, temporary| {
        let plan = Plan::new(files, adapters, table, temporary)?;
        plan.write(adapters, progress, &mut requantized)?;
        copy_others(directory, files, temporary)
    })?;
    report.requantized = Some(requantized);
    Ok(report)
}

/// How a tensor of the new file is made.
enum Row {
    /// As it is stored, or with what adapters add.
    Plain(String, Option<Parameter>),
    /// The same, packed.
    Packed(String, Option<Parameter>),
    /// The scale of the one before.
    Scale,
    /// ComfyUI: two values say that products are those of floats.
    Marker,
}

/// The file to write.
struct Plan<'a> {
    files: &'a WeightFiles,
    path: PathBuf,
    tensors: Vec<PlannedTensor>,
    rows: Vec<Row>,
    metadata: BTreeMap<String, String>,
}

impl<'a> Plan<'a> {
    fn new(
        files: &'a WeightFiles,
        adapters: &[Weighted],
        table: &TargetTable,
        output: &Path,
    ) -> Result<Self, LoraError> {
        let mut plan = Self {
            files,
            path: PathBuf::new(),
            tensors: Vec::new(),
            rows: Vec::new(),
            metadata: files.metadata().clone(),
        };
        for key in files.keys() {
            let Some(info) = files.info(key) else {
                continue;
            };
            let changed = Parameter::changed(key, adapters, table);
            let stored = files.stored(key).ok();
            match stored.filter(|stored| stored.float().is_none()) {
                Some(stored) => plan.add_packed(key, &stored, changed)?,
                None => {
                    let row = Row::Plain(key.to_string(), changed);
                    plan.add(key.to_string(), info.dtype, info.shape, row);
                }
            }
        }
        let blocks = |tensor: &PlannedTensor| matches!(tensor.kind, StoredType::Block(_));
        let ending = match plan.tensors.iter().any(blocks) {
            true => {
                const ARCHITECTURE: &str = "general.architecture";
                plan.metadata.retain(|key, _| key == ARCHITECTURE);
                let architecture = plan.metadata.entry(ARCHITECTURE.into());
                architecture.or_insert_with(|| "wan".into());
                "gguf"
            }
            false => {
                // What it says of layers is in the names of their tensors now.
                plan.metadata.remove("_quantization_metadata");
                if plan.tensors.iter().any(|t| t.kind == StoredType::FP8) {
                    plan.add("scaled_fp8".into(), StoredType::FP8, vec![2], Row::Marker);
                }
                "safetensors"
            }
        };
        let mut own = files.files();
        let name = match (own.next().and_then(Path::file_name), own.next()) {
            (Some(only), None) => only,
            _ => OsStr::new("diffusion_pytorch_model"),
        };
        plan.path = output.join(name).with_extension(ending);
        Ok(plan)
    }

    fn add(&mut self, name: String, kind: StoredType, shape: Vec<usize>, row: Row) {
        self.tensors.push(PlannedTensor { name, kind, shape });
        self.rows.push(row);
    }

    /// A packed tensor, and its scale under the names that readers of its type know.
    fn add_packed(
        &mut self,
        key: &str,
        stored: &StoredTensor<'_>,
        changed: Option<Parameter>,
    ) -> Result<(), LoraError> {
        let part = &stored.parts[0];
        let rows = stored.shape.first().copied().unwrap_or(1);
        let scales = match &changed {
            None => part.scale.as_ref().map(|scale| scale.values.len()),
            Some(_) => {
                let layout = self.files.packed_layout(key)?;
                let to = layout.as_ref().and_then(Quantization::like);
                match to.ok_or_else(|| refused(key, part.kind))? {
                    Quantization::Fp8 => Some(1),
                    Quantization::Fp8Rows | Quantization::Int8 => Some(rows),
                    _ => None,
                }
            }
        };
        let layer = key.strip_suffix(".weight").unwrap_or(key);
        let (name, scale) = match part.kind {
            StoredType::INT8 => (
                format!("{layer}.weight_int8"),
                format!("{layer}.weight_scale"),
            ),
            _ => (key.to_string(), format!("{layer}.scale_weight")),
        };
        let row = Row::Packed(key.to_string(), changed);
        self.add(name, part.kind, stored.shape.clone(), row);
        if let Some(count) = scales {
            let shape = match count > rows {
                true => vec![rows, count / rows],
                false => vec![count],
            };
            self.add(scale, StoredType::F32, shape, Row::Scale);
        }
        Ok(())
    }

    fn write(
        &self,
        adapters: &[Weighted],
        progress: MergeProgress,
        requantized: &mut Requantized,
    ) -> Result<(), LoraError> {
        let (mut done, mut total) = (0, 0);
        for tensor in &self.tensors {
            total += tensor.bytes(&self.path)? as u64;
        }
        let mut scale = Vec::new();
        stream_weights(&self.path, &self.tensors, &self.metadata, |index| {
            let made = match &self.rows[index] {
                Row::Plain(key, None) => self.files.bytes(key)?.into_owned(),
                Row::Plain(key, Some(parameter)) => {
                    let data = self.files.tensor_data(key)?;
                    let (dtype, shape) = (data.dtype, data.shape.to_vec());
                    let merged = parameter.merged(data, adapters);
                    rounded(key, merged, &shape, dtype)?.as_bytes().to_vec()
                }
                Row::Packed(key, None) => {
                    let stored = self.files.stored(key)?;
                    let part = &stored.parts[0];
                    scale = match &part.scale {
                        Some(scale) => scale.values.to_vec(),
                        None => Vec::new(),
                    };
                    part.bytes.to_vec()
                }
                Row::Packed(key, Some(parameter)) => {
                    let data = self.files.tensor_data(key)?;
                    let (dtype, shape) = (data.dtype, data.shape.to_vec());
                    let merged = parameter.merged(data, adapters);
                    let merged = rounded(key, merged, &shape, dtype)?;
                    let values: Vec<f32> = merged.iter::<f32>().collect();
                    let layout = self.files.packed_layout(key)?;
                    let packed = layout.and_then(|layout| requantize(&values, &layout));
                    let kind = self.tensors[index].kind;
                    let (packed, off) = packed.ok_or_else(|| refused(key, kind))?;
                    requantized.add(key.strip_suffix(".weight").unwrap_or(key), off);
                    scale = packed.scale.unwrap_or_default();
                    packed.bytes
                }
                Row::Scale => {
                    let values = std::mem::take(&mut scale);
                    values.iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Row::Marker => vec![0; 2],
            };
            done += made.len() as u64;
            match progress(done, total).is_break() {
                true => Err(LoraError::Cancelled),
                false => Ok(made),
            }
        })
    }
}

fn refused(key: &str, kind: StoredType) -> LoraError {
    LoraError::NotRequantized {
        target: key.to_string(),
        kind: kind.to_string(),
    }
}

/// Copies what lies beside the weights, but for the list of which file holds which.
fn copy_others(directory: &Path, files: &WeightFiles, output: &Path) -> Result<(), LoraError> {
    // A single file has nothing beside it that belongs to it.
    if !directory.is_dir() {
        return Ok(());
    }
    let entries = std::fs::read_dir(directory).map_err(|e| WeightsError::io(directory, e))?;
    for entry in entries {
        let path = entry.map_err(|e| WeightsError::io(directory, e))?.path();
        let name = path.file_name().unwrap_or_default();
        let is_index = name.to_string_lossy().ends_with(".index.json");
        if path.is_file() && !is_index && !files.files().any(|shard| shard == path) {
            let copy = output.join(name);
            std::fs::copy(&path, copy).map_err(|e| WeightsError::io(&path, e))?;
        }
    }
    Ok(())
}
