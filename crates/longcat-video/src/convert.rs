//! Checkpoints in another layout: an official directory, its matrices packed or not, or the transformer in
//! one file under Kijai's names.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use longcat_dit::{DitConfig, kijai_names, official_weights};
use longcat_partial::Partial;
use longcat_text::{PromptTokenizer, Umt5Config};
use longcat_vae::WanVaeConfig;
use longcat_weights::{
    PlannedTensor, Precision, StoredType, WeightFiles, WeightsError, stream_weights, write_atomic,
};
use serde_json::{Value, json};

use crate::{Checkpoint, VideoError};

/// Told of bytes that were written and of all that will be, after every tensor; may stop.
pub type ConvertProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// How a tensor of the new file is made.
enum Row {
    /// Of rows of an old one, as floats.
    Floats {
        source: String,
        /// Which part of how many, by rows.
        part: usize,
        parts: usize,
        dtype: DType,
    },
    /// Of an old one, packed.
    Packed(String),
    /// It is the scale of the one before.
    Scale,
    /// Of nothing.
    Marker,
}

/// What weights become in a new file.
#[derive(Clone, Copy)]
enum Types<'a> {
    /// Floats of this type, or of the stored one; packed ones become bf16.
    Floats(Option<DType>),
    /// Those that are named are packed, the others stay.
    Packed(Precision, &'a dyn Fn(&str) -> bool),
}

/// One file to write.
struct Plan {
    path: PathBuf,
    files: WeightFiles,
    tensors: Vec<PlannedTensor>,
    rows: Vec<Row>,
    /// How matrices are packed, if some are.
    precision: Precision,
    metadata: BTreeMap<String, String>,
}

impl Plan {
    /// All tensors of `files`, each as the keys in `names`.
    fn new(
        path: PathBuf,
        files: WeightFiles,
        names: Vec<(String, Vec<String>)>,
        types: Types,
    ) -> Result<Self, VideoError> {
        let mut plan = Self {
            path,
            files,
            tensors: Vec::new(),
            rows: Vec::new(),
            precision: Precision::Dense,
            metadata: BTreeMap::from([("format".into(), "pt".into())]),
        };
        for (source, targets) in names {
            match types {
                Types::Floats(dtype) => plan.add_floats(source, targets, dtype)?,
                Types::Packed(precision, packed) => {
                    plan.precision = precision;
                    let shape = plan.files.stored(&source)?.shape;
                    match precision.stored_as(&shape).filter(|_| packed(&source)) {
                        Some(kind) => plan.add_packed(source, kind, shape),
                        None => plan.add_floats(source, targets, None)?,
                    }
                }
            }
        }
        if plan.tensors.iter().any(|t| t.kind == StoredType::FP8) {
            // ComfyUI: two values say that products are those of floats.
            plan.add("scaled_fp8".into(), StoredType::FP8, vec![2], Row::Marker);
        }
        Ok(plan)
    }

    fn add(&mut self, name: String, kind: StoredType, shape: Vec<usize>, row: Row) {
        self.tensors.push(PlannedTensor { name, kind, shape });
        self.rows.push(row);
    }

    /// A tensor in `dtype` or as it is stored (packed ones in bf16), its rows dealt out to `targets`.
    fn add_floats(
        &mut self,
        source: String,
        targets: Vec<String>,
        dtype: Option<DType>,
    ) -> Result<(), VideoError> {
        let stored = self.files.stored(&source)?;
        let dtype = dtype.or(stored.float()).unwrap_or(DType::BF16);
        let kind = StoredType::of(dtype).ok_or_else(|| WeightsError::WrongDtype {
            path: self.path.clone(),
            key: source.clone(),
            dtype: format!("{dtype:?}"),
        })?;
        let mut shape = stored.shape;
        let parts = targets.len();
        if let Some(rows) = shape.first_mut() {
            *rows /= parts;
        }
        for (part, name) in targets.into_iter().enumerate() {
            let row = Row::Floats {
                source: source.clone(),
                part,
                parts,
                dtype,
            };
            self.add(name, kind, shape.clone(), row);
        }
        Ok(())
    }

    /// A matrix that is packed, and its scale under the names that readers of its type know.
    fn add_packed(&mut self, source: String, kind: StoredType, shape: Vec<usize>) {
        let layer = source.strip_suffix(".weight").unwrap_or(&source);
        let (name, scale) = match kind {
            StoredType::FP8 => (source.clone(), Some((format!("{layer}.scale_weight"), 1))),
            StoredType::INT8 => (
                format!("{layer}.weight_int8"),
                Some((format!("{layer}.weight_scale"), shape[0])),
            ),
            _ => (source.clone(), None),
        };
        self.add(name, kind, shape, Row::Packed(source));
        if let Some((name, count)) = scale {
            self.add(name, StoredType::F32, vec![count], Row::Scale);
        }
    }

    fn bytes(&self) -> Result<u64, VideoError> {
        let mut sum = 0;
        for tensor in &self.tensors {
            sum += tensor.bytes(&self.path)? as u64;
        }
        Ok(sum)
    }

    fn write(
        &self,
        done: &mut u64,
        total: u64,
        progress: ConvertProgress,
    ) -> Result<(), VideoError> {
        // Parts of one tensor follow each other.
        let mut last: Option<(&str, Vec<u8>)> = None;
        let mut scale = Vec::new();
        stream_weights(&self.path, &self.tensors, &self.metadata, |index| {
            let made = match &self.rows[index] {
                Row::Floats {
                    source,
                    part,
                    parts,
                    dtype,
                } => {
                    let bytes = match last.take() {
                        Some((of, bytes)) if of == source => bytes,
                        _ => {
                            let data = self.files.tensor_data_in(source, Some(*dtype))?;
                            data.as_bytes().to_vec()
                        }
                    };
                    let share = bytes.len() / parts;
                    let made = bytes[part * share..(part + 1) * share].to_vec();
                    last = Some((source, bytes));
                    made
                }
                Row::Packed(source) => {
                    let packed = self.files.quantized(source, self.precision)?;
                    let values = packed.scale.iter().flatten();
                    scale = values.flat_map(|v| v.to_le_bytes()).collect();
                    packed.bytes
                }
                Row::Scale => std::mem::take(&mut scale),
                Row::Marker => vec![0; 2],
            };
            *done += made.len() as u64;
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
    let mut plan = Plan::new(output.to_path_buf(), files, names, Types::Floats(dtype))?;
    plan.metadata.extend(config.metadata());
    let total = plan.bytes()?;
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
    let floats = Contents::Floats(dtype);
    write_directory(checkpoint, output, floats, progress)
}

/// Writes a checkpoint as a directory in the official layout with the large matrices of transformer and
/// text encoder packed: fp8 and int8 as safetensors, with scales under the names that ComfyUI and the release
/// have, the block types as GGUF. Embedders, modulation, norms, the final layer, the first and last block and
/// the VAE stay as they are. The directory appears under its name when it is whole.
///
/// # Errors
/// As [`convert_to_official`]; [`VideoError::Invalid`] for a precision that packs nothing.
pub fn quantize(
    checkpoint: &Checkpoint,
    output: &Path,
    precision: Precision,
    progress: ConvertProgress,
) -> Result<(), VideoError> {
    if !precision.packs() {
        let reason = format!("{precision} packs nothing; take fp8, int8, q8_0 or q4_k");
        return Err(VideoError::invalid("--to", reason));
    }
    write_directory(checkpoint, output, Contents::Packed(precision), progress)
}

/// What the weights of a new directory are.
#[derive(Clone, Copy)]
enum Contents {
    /// All of this type, or of the stored one.
    Floats(Option<DType>),
    /// The large matrices packed.
    Packed(Precision),
}

/// Writes a directory under a temporary name, which it gives up when it is whole.
fn write_directory(
    checkpoint: &Checkpoint,
    output: &Path,
    contents: Contents,
    progress: ConvertProgress,
) -> Result<(), VideoError> {
    if output.exists() {
        return Err(VideoError::Contents {
            path: output.to_path_buf(),
            reason: "it exists; name another directory".into(),
        });
    }
    let partial = Partial::new(output);
    write_official(checkpoint, partial.path(), contents, progress)?;
    partial
        .finish()
        .map_err(|error| VideoError::io(output, error))
}

/// A network of a new directory.
struct Network<'a> {
    folder: &'a str,
    /// Of its file, without the ending.
    name: &'a str,
    /// What a GGUF file says that it is.
    architecture: &'a str,
    files: WeightFiles,
    config: Value,
    /// Which weights are packed, if any are.
    packed: &'a dyn Fn(&str) -> bool,
}

fn write_official(
    checkpoint: &Checkpoint,
    output: &Path,
    contents: Contents,
    progress: ConvertProgress,
) -> Result<(), VideoError> {
    let open = |path: &Path| WeightFiles::open(path);
    let transformer = official_weights(&open(checkpoint.transformer_dir())?)?;
    let text_encoder = longcat_text::official_weights(&open(checkpoint.text_encoder_path())?)?;
    let vae = longcat_vae::official_weights(&open(checkpoint.vae_path())?)?;
    let config = DitConfig::beside(checkpoint.transformer_dir(), &transformer)?;
    let of_transformer = longcat_dit::packable(&config);
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
    let networks = [
        Network {
            folder: "dit",
            name: "diffusion_pytorch_model",
            architecture: "wan",
            files: transformer,
            config: dit,
            packed: &of_transformer,
        },
        Network {
            folder: "text_encoder",
            name: "model",
            architecture: "t5encoder",
            files: text_encoder,
            config: text,
            packed: &longcat_text::is_packable,
        },
        Network {
            folder: "vae",
            name: "diffusion_pytorch_model",
            architecture: "wan_vae",
            files: vae,
            config: vae_config,
            packed: &|_| false,
        },
    ];
    let mut plans = Vec::new();
    for network in networks {
        let folder = output.join(network.folder);
        write_json(&folder.join("config.json"), &network.config)?;
        let names = same_names(&network.files);
        let types = match contents {
            Contents::Floats(dtype) => Types::Floats(dtype),
            Contents::Packed(precision) => Types::Packed(precision, network.packed),
        };
        let mut plan = Plan::new(folder.join(network.name), network.files, names, types)?;
        let blocks = |tensor: &PlannedTensor| matches!(tensor.kind, StoredType::Block(_));
        match plan.tensors.iter().any(blocks) {
            true => {
                let architecture = network.architecture.to_string();
                plan.metadata = BTreeMap::from([("general.architecture".into(), architecture)]);
                plan.path.set_extension("gguf");
            }
            false => {
                plan.path.set_extension("safetensors");
            }
        }
        plans.push(plan);
    }
    write_json(&output.join("scheduler/scheduler_config.json"), &scheduler)?;
    copy_tokenizer(checkpoint.tokenizer_path(), &output.join("tokenizer"))?;
    for name in ["longcat.json", "lora"] {
        copy(&checkpoint.root().join(name), &output.join(name))?;
    }
    let (mut done, mut total) = (0, 0);
    for plan in &plans {
        total += plan.bytes()?;
    }
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
