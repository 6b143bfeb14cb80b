//! The training configuration: one TOML file.
//!
//! All keys with their meaning and defaults are in `examples/train/lora.toml`.

mod objective;
mod parse;
mod raw;
mod read;
mod sections;

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use longcat_lora::{Fused, NewAdapter};
use longcat_vae::LatentDraw;
use longcat_video::{MemoryLimit, VideoSize};
use regex::Regex;
use serde::{Deserialize, Serialize};

pub use objective::{ConditionShares, NoiseLevels, Objective};
pub use read::read_config;
pub use sections::{
    CheckpointConfig, LoopConfig, OptimizerSection, ParseSampleFormatError, SampleConfig,
    SampleFormat, ScheduleKind, ValidationConfig,
};

/// The layers that the released `cfg_step_lora` adapts.
const DEFAULT_TARGETS: [&str; 3] = [
    r"^blocks\.\d+\.attn\.(qkv|proj)$",
    r"^blocks\.\d+\.cross_attn\.(q_linear|kv_linear)$",
    r"^blocks\.\d+\.ffn\.w[123]$",
];

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// An adapter beside the frozen transformer.
    #[default]
    Lora,
    /// All weights of the transformer.
    Full,
}

/// A whole training run, checked; paths are relative to the working directory.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// The file it was read from, for messages.
    pub file: PathBuf,
    /// The file as it was written, for the header of what is trained.
    pub text: String,
    /// What is trained.
    pub mode: Mode,
    /// Folder of checkpoints, metrics, plots and samples.
    pub output: PathBuf,
    /// Seed of initial factors, order, noise, timesteps and dropout.
    pub seed: u64,
    /// How much memory of the device may be taken: frozen blocks that do not fit pass through it.
    pub memory: MemoryLimit,
    /// The base model.
    pub model: ModelConfig,
    /// Clips and captions.
    pub data: DataConfig,
    /// Encoded clips and captions.
    pub cache: CacheConfig,
    /// Share of samples with the empty caption, for guidance.
    pub caption_dropout: f64,
    /// What the loss asks for.
    pub objective: Objective,
    /// The adapter.
    pub lora: LoraConfig,
    /// AdamW, learning rate, clipping, averaging.
    pub optimizer: OptimizerSection,
    /// Length and batch.
    pub train: LoopConfig,
    /// Validation loss, if it is measured.
    pub validation: Option<ValidationConfig>,
    /// Sample videos, if any are made.
    pub samples: Option<SampleConfig>,
    /// Saved states.
    pub checkpoints: CheckpointConfig,
    /// All settings as JSON: what a saved state remembers, to tell what has changed since.
    settings: serde_json::Value,
}

/// Types of computation, and of weights that are floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16 (CUDA).
    Bf16,
    /// 16-bit floats.
    F16,
}

impl Precision {
    /// As Burn names it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

/// How frozen weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseWeights {
    /// 32-bit floats, also where the checkpoint has them packed.
    #[default]
    F32,
    /// bfloat16 (CUDA), likewise.
    Bf16,
    /// 16-bit floats, likewise.
    F16,
    /// Packed where the checkpoint has them packed.
    Stored,
    /// Large matrices in fp8.
    Fp8,
    /// Large matrices in integers of 8 bits.
    Int8,
    /// Large matrices in GGUF's Q8_0.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Large matrices in GGUF's Q4_K.
    #[serde(rename = "q4_k")]
    Q4K,
}

impl BaseWeights {
    /// The type of floats; `None` where matrices may be packed.
    pub(crate) fn floats(self) -> Option<Precision> {
        match self {
            Self::F32 => Some(Precision::F32),
            Self::Bf16 => Some(Precision::Bf16),
            Self::F16 => Some(Precision::F16),
            _ => None,
        }
    }

    /// What the matrices become when they are loaded.
    pub(crate) fn kept(self) -> longcat_video::Precision {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => longcat_video::Precision::Dense,
            Self::Stored => longcat_video::Precision::Stored,
            Self::Fp8 => longcat_video::Precision::Fp8,
            Self::Int8 => longcat_video::Precision::Int8,
            Self::Q8_0 => longcat_video::Precision::Q8_0,
            Self::Q4K => longcat_video::Precision::Q4K,
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Checkpoint directory in the official layout; the caller's default without it.
    pub checkpoint: Option<PathBuf>,
    /// How the frozen weights are kept; what is trained is f32.
    pub precision: BaseWeights,
    /// Type of computation: that of the weights where they are floats.
    pub dtype: Precision,
    /// Block-sparse attention with the parameters of the checkpoint.
    pub block_sparse: bool,
    /// Blocks whose matrices live in host memory and pass through the device.
    pub streamed_blocks: usize,
}

/// Which frames are taken of a clip that is longer than it need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    /// The first ones.
    #[default]
    Start,
    /// One of its windows for each sample.
    Random,
    /// All of its windows, each a sample of an epoch.
    Every,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    /// Folder of clips with captions, or a `.jsonl` or `.csv` list.
    pub path: PathBuf,
    /// Sizes that clips are fitted to, in multiples of 16; each takes the one nearest in shape.
    pub sizes: Vec<VideoSize>,
    /// Frame counts (4n + 1); each clip takes the largest that it fills.
    pub frames: Vec<usize>,
    /// Which of its frames.
    pub take: Take,
    /// How many windows of a clip at most; as many as fit without it.
    pub windows: Option<usize>,
    /// Frame rate that videos are brought to; their own without it.
    pub fps: Option<f64>,
    /// How often every clip comes in an epoch.
    pub repeats: usize,
    /// Leave broken clips out, after naming them, instead of stopping.
    pub skip_broken: bool,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq)]
pub struct CacheConfig {
    /// Folder of the cache.
    pub path: PathBuf,
    /// How latents are taken from the VAE's posterior.
    pub posterior: LatentDraw,
    /// Text tokens per caption.
    pub text_length: usize,
    /// Type of the text encoder's weights.
    pub text_precision: Precision,
}

/// `[lora]`
#[derive(Debug, Clone)]
pub struct LoraConfig {
    /// The adapter, unless it starts from a file: rank, alpha and layers are then the file's.
    pub adapter: NewAdapter,
    /// An adapter file to start from, in any format.
    pub start_from: Option<PathBuf>,
    /// Share of input features that a step leaves out of every adapted layer.
    pub dropout: f64,
}

impl LoraConfig {
    /// A new adapter of this rank on the layers that the released `cfg_step_lora` adapts, with the
    /// scale 1.
    pub fn of_rank(rank: usize) -> Self {
        let compile = |pattern| Regex::new(pattern).expect("the default patterns are valid");
        Self {
            adapter: NewAdapter {
                rank,
                alpha: rank as f64,
                rslora: false,
                targets: DEFAULT_TARGETS.map(compile).into(),
                exclude: Vec::new(),
                fused: Fused::Parts,
            },
            start_from: None,
            dropout: 0.0,
        }
    }
}

impl TrainConfig {
    /// The same, with another base model.
    #[must_use]
    pub fn with_checkpoint(mut self, checkpoint: &Path) -> Self {
        self.model.checkpoint = Some(checkpoint.to_path_buf());
        self.settings["model"]["checkpoint"] = checkpoint.to_string_lossy().into();
        self
    }

    /// The same, with settings of a program's own among what a saved state remembers.
    #[must_use]
    pub fn with_settings(mut self, section: &str, settings: serde_json::Value) -> Self {
        if let Some(map) = self.settings.as_object_mut() {
            map.insert(section.to_string(), settings);
        }
        self
    }
}
