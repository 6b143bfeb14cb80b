//! Checkpoints in another layout: an official directory, or the transformer in one file under Kijai's
//! names.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use longcat_dit::{DitConfig, kijai_names, official_weights};
use longcat_text::{PromptTokenizer, Umt5Config};
use longcat_vae::WanVaeConfig;
use longcat_weights::{PlannedTensor, WeightFiles, stream_safetensors, write_atomic};
use serde_json::{Value, json};

use crate::{Checkpoint, VideoError};

/// Told of bytes that were written and of all that will be, after every tensor; may stop.
pub type ConvertProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// A tensor of the new file: rows of one of the old.
struct Row {
    source: String,
    /// Which part of how many, by rows.
    part: usize,
    parts: usize,
    dtype: DType,
}

/// One file to write.
struct Plan {
    path: PathBuf,
    files: WeightFiles,
    tensors: Vec<PlannedTensor>,
    rows: Vec<Row>,
    metadata: BTreeMap<String, String>,
}

impl Plan {
    /// All tensors of `files`, each as the keys in `names`, in `dtype` or as they are stored (packed ones
    /// in bf16).
    fn new(
        path: PathBuf,
        files: WeightFiles,
        names: Vec<(String, Vec<String>)>,
        dtype: Option<DType>,
    ) -> Result<Self, VideoError> {
        let (mut tensors, mut rows) = (Vec::new(), Vec::new());
        for (source, targets) in names {
            let stored = files.stored(&source)?;
            let dtype = dtype.or(stored.float()).unwrap_or(DType::BF16);
            let parts = targets.len();
            for (part, name) in targets.into_iter().enumerate() {
                let mut shape = stored.shape.clone();
                if let Some(rows) = shape.first_mut() {
                    *rows /= parts;
                }
                tensors.push(PlannedTensor { name, dtype, shape });
                let source = source.clone();
                rows.push(Row {
                    source,
                    part,
                    parts,
                    dtype,
                });
            }
        }
        Ok(Self {
            path,
            files,
            tensors,
            rows,
            metadata: BTreeMap::from([("format".into(), "pt".into())]),
        })
    }

    fn bytes(&self) -> u64 {
        let size = |t: &PlannedTensor| t.shape.iter().product::<usize>() * t.dtype.size();
        self.tensors.iter().map(|t| size(t) as u64).sum()
    }

    fn write(
        &self,
        done: &mut u64,
        total: u64,
        progress: ConvertProgress,
    ) -> Result<(), VideoError> {
        // Parts of one tensor follow each other.
        let mut last: Option<(&str, Vec<u8>)> = None;
        stream_safetensors(&self.path, &self.tensors, &self.metadata, |index| {
            let row = &self.rows[index];
            let bytes = match last.take() {
                Some((source, bytes)) if source == row.source => bytes,
                _ => {
                    let data = self.files.tensor_data_in(&row.source, Some(row.dtype))?;
                    data.as_bytes().to_vec()
                }
            };
            let share = bytes.len() / row.parts;
            let made = bytes[row.part * share..(row.part + 1) * share].to_vec();
            *done += made.len() as u64;
            last = Some((&row.source, bytes));
            match progress(*done, total) {
                ControlFlow::Continue(()) => Ok(made),
                ControlFlow::Break(()) => Err(VideoError::Cancelled),
            }
        })
    }
}

/// Every tensor under its own name, but for the tokenizer that some text encoders carry.
fn same_names(files: &WeightFiles) -> Vec<(String, Vec<String>)> {
    files
        .keys()
        .filter(|key| *key != "spiece_model")
        .map(|key| (key.to_string(), vec![key.to_string()]))
        .collect()
}

/// Writes the transformer of a checkpoint into one safetensors file under the names of Kijai's ComfyUI
/// nodes, fused layers split as there. The config is among the strings of the file.
///
/// Floats stay in their type unless `dtype` is given; packed weights become bf16.
///
/// # Errors
/// [`VideoError`] names file and key; [`VideoError::Cancelled`]. The target is then as it was.
pub fn convert_to_comfyui(
    checkpoint: &Checkpoint,
    output: &Path,
    dtype: Option<DType>,
    progress: ConvertProgress,
) -> Result<(), VideoError> {
    let config = checkpoint.transformer_config()?;
    let files = official_weights(&WeightFiles::open(checkpoint.transformer_dir())?)?;
    let names = kijai_names(&files);
    let mut plan = Plan::new(output.to_path_buf(), files, names, dtype)?;
    plan.metadata.extend(config.metadata());
    let total = plan.bytes();
    plan.write(&mut 0, total, progress)
}

/// Writes a checkpoint as a directory in the official layout, one file for each network.
///
/// Floats stay in their type unless `dtype` is given; packed weights become bf16. The directory appears
/// under its name when it is whole.
///
/// # Errors
/// [`VideoError`] names file and key; [`VideoError::Contents`] when `output` exists;
/// [`VideoError::Cancelled`].
pub fn convert_to_official(
    checkpoint: &Checkpoint,
    output: &Path,
    dtype: Option<DType>,
    progress: ConvertProgress,
) -> Result<(), VideoError> {
    if output.exists() {
        return Err(VideoError::Contents {
            path: output.to_path_buf(),
            reason: "it exists; name another directory".into(),
        });
    }
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = output.with_file_name(name);
    let written = write_official(checkpoint, &temporary, dtype, progress).and_then(|()| {
        std::fs::rename(&temporary, output).map_err(|error| VideoError::io(output, error))
    });
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    written
}

fn write_official(
    checkpoint: &Checkpoint,
    output: &Path,
    dtype: Option<DType>,
    progress: ConvertProgress,
) -> Result<(), VideoError> {
    let open = |path: &Path| WeightFiles::open(path);
    let transformer = official_weights(&open(checkpoint.transformer_dir())?)?;
    let text_encoder = longcat_text::official_weights(&open(checkpoint.text_encoder_path())?)?;
    let vae = longcat_vae::official_weights(&open(checkpoint.vae_path())?)?;
    let config = DitConfig::beside(checkpoint.transformer_dir(), &transformer)?;
    let mut dit = serde_json::to_value(config).unwrap_or_default();
    dit["_class_name"] = "LongCatVideoTransformer3DModel".into();
    let text = Umt5Config::beside(checkpoint.text_encoder_path(), &text_encoder)?.to_json();
    let vae_config = WanVaeConfig::beside(checkpoint.vae_path(), &vae)?.to_json();
    let scheduler = checkpoint.scheduler()?;
    let scheduler = json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": scheduler.num_train_timesteps,
        "shift": scheduler.shift,
    });
    let parts = [
        ("dit", "diffusion_pytorch_model", transformer, dit),
        ("text_encoder", "model", text_encoder, text),
        ("vae", "diffusion_pytorch_model", vae, vae_config),
    ];
    let mut plans = Vec::new();
    for (folder, name, files, config) in parts {
        let folder = output.join(folder);
        write_json(&folder.join("config.json"), &config)?;
        let path = folder.join(name).with_extension("safetensors");
        let names = same_names(&files);
        plans.push(Plan::new(path, files, names, dtype)?);
    }
    write_json(&output.join("scheduler/scheduler_config.json"), &scheduler)?;
    copy_tokenizer(checkpoint.tokenizer_path(), &output.join("tokenizer"))?;
    for name in ["longcat.json", "lora"] {
        copy(&checkpoint.root().join(name), &output.join(name))?;
    }
    let (mut done, total) = (0, plans.iter().map(Plan::bytes).sum());
    for plan in &plans {
        plan.write(&mut done, total, progress)?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), VideoError> {
    make_folder(path.parent().unwrap_or(Path::new("")))?;
    let text = format!("{value:#}\n");
    Ok(write_atomic(path, text.as_bytes())?)
}

fn make_folder(path: &Path) -> Result<(), VideoError> {
    std::fs::create_dir_all(path).map_err(|error| VideoError::io(path, error))
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), VideoError> {
    make_folder(to)?;
    if from.is_dir() {
        copy(from, to)?;
    } else {
        let beside = from.with_file_name("tokenizer_config.json");
        copy(&beside, &to.join("tokenizer_config.json"))?;
    }
    let file = to.join("tokenizer.json");
    if !file.is_file() {
        let json = PromptTokenizer::load(from)?.to_json()?;
        write_atomic(&file, json.as_bytes())?;
    }
    let config = to.join("tokenizer_config.json");
    match config.is_file() {
        true => Ok(()),
        false => write_json(&config, &json!({"pad_token": "<pad>"})),
    }
}

/// Copies a file, or the files of a folder; what is not there is not copied.
fn copy(from: &Path, to: &Path) -> Result<(), VideoError> {
    let io = |error| VideoError::io(from, error);
    if from.is_file() {
        std::fs::copy(from, to).map_err(io)?;
    } else if from.is_dir() {
        make_folder(to)?;
        for entry in std::fs::read_dir(from).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.path().is_file() {
                copy(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}
