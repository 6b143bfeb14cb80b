//! The configuration as it is written: every key with its type and default.

use std::path::PathBuf;

use longcat_lora::Fused;
use longcat_vae::LatentDraw;
use serde::{Deserialize, Serialize};

use super::{BaseWeights, LoopConfig, Mode, Precision, ScheduleKind, Take};

/// A configuration file. What keys mean is said in `examples/train/lora.toml`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    pub mode: Mode,
    pub output: PathBuf,
    pub seed: u64,
    pub memory: RawMemory,
    pub model: RawModel,
    pub data: RawData,
    pub cache: RawCache,
    pub objective: RawObjective,
    pub distill: RawDistill,
    pub lora: RawLora,
    pub optimizer: RawOptimizer,
    pub train: LoopConfig,
    pub validation: RawValidation,
    pub samples: RawSamples,
    pub checkpoints: RawCheckpoints,
}

/// An amount of memory in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RawMemory(pub String);

impl Default for RawMemory {
    fn default() -> Self {
        Self("auto".into())
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawModel {
    /// Empty: the caller's default.
    pub checkpoint: PathBuf,
    pub precision: BaseWeights,
    pub dtype: Precision,
    pub block_sparse: bool,
    pub streamed_blocks: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawData {
    pub path: PathBuf,
    pub sizes: Vec<String>,
    pub frames: Vec<usize>,
    pub take: Take,
    /// 0: as many as fit.
    pub windows: usize,
    /// 0: their own.
    pub fps: f64,
    pub repeats: usize,
    pub skip_broken: bool,
}

impl Default for RawData {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            sizes: vec!["832x480".into()],
            frames: vec![1, 33, 93],
            take: Take::Start,
            windows: 0,
            fps: 15.0,
            repeats: 1,
            skip_broken: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCache {
    /// Empty: `cache` in the output folder.
    pub path: PathBuf,
    pub posterior: LatentDraw,
    pub text_length: usize,
    pub text_precision: Precision,
}

impl Default for RawCache {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            posterior: LatentDraw::Sample,
            text_length: 512,
            text_precision: Precision::F32,
        }
    }
}

/// Distributions of noise levels, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawTimesteps {
    Uniform,
    LogitNormal,
    #[default]
    Shifted,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawObjective {
    pub timesteps: RawTimesteps,
    pub shift: f64,
    pub logit_mean: f64,
    pub logit_std: f64,
    pub caption_dropout: f64,
    pub image_condition: f64,
    pub continuation: f64,
    pub continuation_latents: usize,
    /// 0: refining is not trained.
    pub refine: f64,
}

impl Default for RawObjective {
    fn default() -> Self {
        Self {
            timesteps: RawTimesteps::Shifted,
            shift: 12.0,
            logit_mean: 0.0,
            logit_std: 1.0,
            caption_dropout: 0.1,
            image_condition: 0.0,
            continuation: 0.0,
            continuation_latents: 4,
            refine: 0.0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDistill {
    /// 0: there is no teacher.
    pub guidance: f64,
    pub steps: usize,
    pub teacher_steps: usize,
}

impl Default for RawDistill {
    fn default() -> Self {
        Self {
            guidance: 0.0,
            steps: 16,
            teacher_steps: 3,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLora {
    pub rank: usize,
    pub alpha: f64,
    pub rslora: bool,
    pub targets: Vec<String>,
    pub exclude: Vec<String>,
    pub fused: Fused,
    /// Empty: a new adapter.
    pub start_from: PathBuf,
    pub dropout: f64,
}

impl Default for RawLora {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: 32.0,
            rslora: false,
            targets: super::DEFAULT_TARGETS.map(String::from).into(),
            exclude: Vec::new(),
            fused: Fused::Parts,
            start_from: PathBuf::new(),
            dropout: 0.0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawOptimizer {
    pub learning_rate: f64,
    pub schedule: ScheduleKind,
    pub warmup_steps: usize,
    pub min_learning_rate: f64,
    pub betas: [f32; 2],
    pub epsilon: f32,
    pub weight_decay: f32,
    pub lora_plus: f64,
    /// 0: no limit.
    pub max_grad_norm: f64,
    /// 0: no average.
    pub ema_decay: f64,
}

impl Default for RawOptimizer {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            schedule: ScheduleKind::Constant,
            warmup_steps: 0,
            min_learning_rate: 0.0,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.01,
            lora_plus: 1.0,
            max_grad_norm: 1.0,
            ema_decay: 0.0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawValidation {
    /// 0: never.
    pub every: usize,
    /// Empty: the training clips.
    pub path: PathBuf,
    pub sigmas: Vec<f64>,
}

impl Default for RawValidation {
    fn default() -> Self {
        Self {
            every: 0,
            path: PathBuf::new(),
            sigmas: vec![0.2, 0.4, 0.6, 0.8, 0.95],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSamples {
    /// 0: never.
    pub every: usize,
    pub prompts: Vec<String>,
    pub negative_prompt: String,
    /// Empty: the first of `data.sizes`.
    pub size: String,
    /// 0: the largest of `data.frames`.
    pub frames: usize,
    pub steps: usize,
    pub guidance: f64,
    pub seed: u64,
    pub format: String,
}

impl Default for RawSamples {
    fn default() -> Self {
        Self {
            every: 0,
            prompts: Vec::new(),
            negative_prompt: String::new(),
            size: String::new(),
            frames: 0,
            steps: 50,
            guidance: 4.0,
            seed: 0,
            format: "mp4".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCheckpoints {
    /// 0: at the end alone.
    pub every: usize,
    /// 0: all.
    pub keep: usize,
    pub format: String,
    pub split: bool,
}

impl Default for RawCheckpoints {
    fn default() -> Self {
        Self {
            every: 250,
            keep: 3,
            format: "official".into(),
            split: false,
        }
    }
}
