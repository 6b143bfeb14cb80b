//! The training configuration: one TOML file.
//!
//! All keys with their meaning and defaults are in `examples/train/lora.toml`.

mod check;
mod read;
mod training;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use read::read_config;
pub use training::{
    CheckpointConfig, LoopConfig, OptimizerSection, SampleConfig, ScheduleKind, ValidationConfig,
};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// An adapter beside the frozen transformer.
    #[default]
    Lora,
    /// All weights of a small transformer.
    Full,
    /// All weights of a small VAE.
    Vae,
}

/// A whole training run. Paths are relative to the configuration file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The file it was read from, for messages.
    #[serde(skip)]
    pub file: PathBuf,
    /// What is trained.
    pub mode: Mode,
    /// Folder of checkpoints, metrics, plots and samples.
    pub output: PathBuf,
    /// Seed of initial factors, order, noise, timesteps and dropout.
    pub seed: u64,
    /// The base model.
    pub model: ModelConfig,
    /// Clips and captions.
    pub data: DataConfig,
    /// Encoded clips and captions.
    pub cache: CacheConfig,
    /// The loss.
    pub objective: ObjectiveConfig,
    /// The adapter.
    pub lora: LoraConfig,
    /// The base model as the teacher of its adapter.
    pub distill: DistillConfig,
    /// The VAE's loss.
    pub vae: VaeConfig,
    /// AdamW, learning rate, clipping, averaging.
    pub optimizer: OptimizerSection,
    /// Length and batch.
    pub train: LoopConfig,
    /// Validation loss.
    pub validation: ValidationConfig,
    /// Sample videos.
    pub samples: SampleConfig,
    /// Saved states.
    pub checkpoints: CheckpointConfig,
}

/// Types of base weights.
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
    pub fn dtype(self) -> burn::tensor::DType {
        match self {
            Self::F32 => burn::tensor::DType::F32,
            Self::Bf16 => burn::tensor::DType::BF16,
            Self::F16 => burn::tensor::DType::F16,
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Checkpoint directory in the official layout; the built-in small model when empty.
    pub checkpoint: PathBuf,
    /// Type of the frozen weights, or of a trained VAE's activations; what is trained is f32.
    pub precision: Precision,
    /// Draw all weights anew, by the configs of the checkpoint alone (not for adapters).
    pub random_weights: bool,
    /// Train the text encoder with the transformer (mode "full").
    pub train_text_encoder: bool,
    /// Block-sparse attention with the parameters of the checkpoint.
    pub block_sparse: bool,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Folder of clips with captions, or a `.jsonl` or `.csv` list.
    pub path: PathBuf,
    /// Sizes that clips are fitted to, `WIDTHxHEIGHT`; each takes the one nearest in shape.
    pub sizes: Vec<String>,
    /// Frame counts (4n + 1); each clip takes the largest that it fills.
    pub frames: Vec<usize>,
    /// Frame rate that videos are brought to; 0 keeps their own.
    pub fps: f64,
    /// How often every clip comes in an epoch.
    pub repeats: usize,
    /// Leave broken clips out, after naming them, instead of stopping.
    pub skip_broken: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            sizes: vec!["832x480".into()],
            frames: vec![1, 33, 93],
            fps: 15.0,
            repeats: 1,
            skip_broken: false,
        }
    }
}

/// How latents are taken from the VAE's posterior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PosteriorChoice {
    /// A new sample every time.
    #[default]
    Sample,
    /// The mean.
    Mode,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Folder of the cache; `cache` in the output folder when empty.
    pub path: PathBuf,
    /// How latents are taken from the VAE's posterior.
    pub posterior: PosteriorChoice,
    /// Text tokens per caption.
    pub text_length: usize,
    /// Type of the text encoder's weights.
    pub text_precision: Precision,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            posterior: PosteriorChoice::Sample,
            text_length: 512,
            text_precision: Precision::F32,
        }
    }
}

/// How noise levels are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimestepSampling {
    /// σ uniform in (0, 1).
    Uniform,
    /// σ = sigmoid of a normal variable.
    LogitNormal,
    /// σ = s·u / (1 + (s − 1)·u) with u uniform, as the scheduler spaces its steps.
    #[default]
    Shifted,
}

/// `[objective]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// How noise levels are drawn.
    pub timesteps: TimestepSampling,
    /// The shift s of `shifted`.
    pub shift: f64,
    /// Mean of the normal variable of `logit-normal`.
    pub logit_mean: f64,
    /// Its standard deviation.
    pub logit_std: f64,
    /// Share of samples with the empty caption, for guidance.
    pub caption_dropout: f64,
    /// Guidance scale with which predictions are to fit the clips; 1 for the plain ones.
    pub guidance: f64,
    /// Share of batches whose first latent frame is a clean condition.
    pub image_condition: f64,
    /// Share of batches that continue `continuation_latents` clean latent frames.
    pub continuation: f64,
    /// Latent frames of a continuation's condition.
    pub continuation_latents: usize,
    /// Share of those batches whose condition is as the model itself makes these frames, faults
    /// included; the rest have the frames of the clip.
    pub own_continuation: f64,
    /// Guidance scale with which it makes them; 1 for none.
    pub own_guidance: f64,
    /// Share of noise that refining starts from: trains the way from the upsampled first-stage clip
    /// to the clip; 0 for none.
    pub refine: f64,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            timesteps: TimestepSampling::Shifted,
            shift: 12.0,
            logit_mean: 0.0,
            logit_std: 1.0,
            caption_dropout: 0.1,
            guidance: 1.0,
            image_condition: 0.0,
            continuation: 0.0,
            continuation_latents: 4,
            own_continuation: 0.0,
            own_guidance: 1.0,
            refine: 0.0,
        }
    }
}

/// How fused layers (qkv and others) are adapted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fused {
    /// One pair of factors per part, as in the official files.
    #[default]
    Parts,
    /// One pair of factors over all parts.
    Whole,
}

/// `[lora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank.
    pub rank: usize,
    /// The scale is alpha over rank.
    pub alpha: f64,
    /// The scale is alpha over the root of the rank instead.
    pub rslora: bool,
    /// Patterns over canonical layer names; a layer is adapted where one of them matches.
    pub targets: Vec<String>,
    /// Patterns of layers to leave out.
    pub exclude: Vec<String>,
    /// How fused layers are adapted.
    pub fused: Fused,
    /// An adapter file to start from, in any format; rank, alpha, targets are then its own.
    pub start_from: PathBuf,
    /// Share of input features that a step leaves out of every adapted layer.
    pub dropout: f64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: 32.0,
            rslora: false,
            targets: vec![
                r"^blocks\.\d+\.attn\.(qkv|proj)$".into(),
                r"^blocks\.\d+\.cross_attn\.(q_linear|kv_linear)$".into(),
                r"^blocks\.\d+\.ffn\.w[123]$".into(),
            ],
            exclude: Vec::new(),
            fused: Fused::Parts,
            start_from: PathBuf::new(),
            dropout: 0.0,
        }
    }
}

/// `[distill]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// Guidance scale of the teacher, which the adapter learns to do without; 0 for no teacher.
    pub guidance: f64,
    /// Steps of the distilled schedule that the adapter is for.
    pub steps: usize,
    /// Steps of the teacher for each of them.
    pub teacher_steps: usize,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            guidance: 0.0,
            steps: 16,
            teacher_steps: 3,
        }
    }
}

/// `[vae]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// Weight of the posterior's divergence from a standard normal.
    pub kl_weight: f64,
    /// Weight of the mean squared error beside the mean absolute one. It counts where errors are
    /// large: along edges.
    pub mse_weight: f64,
    /// Leave the encoder and the latent statistics as they are, so that transformers trained on
    /// these latents stay valid.
    pub decoder_only: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            kl_weight: 1e-6,
            mse_weight: 0.0,
            decoder_only: false,
        }
    }
}
