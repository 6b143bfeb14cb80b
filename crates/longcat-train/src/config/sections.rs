//! The sections about optimising and what a run writes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use longcat_lora::Format;
use longcat_video::VideoSize;
use serde::{Deserialize, Serialize};

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays.
    #[default]
    Constant,
    /// Falls to `min_learning_rate` along half a cosine.
    Cosine,
    /// Falls to `min_learning_rate` along a line.
    Linear,
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerSection {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Course after the warm-up.
    pub schedule: ScheduleKind,
    /// Steps of linear rise from 0.
    pub warmup_steps: usize,
    /// Where falling schedules end.
    pub min_learning_rate: f64,
    /// AdamW's betas.
    pub betas: [f32; 2],
    /// AdamW's epsilon.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor on the learning rate of the factors `up`.
    pub lora_plus: f64,
    /// Limit of the norm over all gradients.
    pub max_grad_norm: Option<f64>,
    /// Decay per step of the running average of trained parameters, where one is kept.
    pub ema_decay: Option<f64>,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoopConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Clips per forward pass.
    pub batch: usize,
    /// Forward passes per step and rank.
    pub accumulation: usize,
    /// Clips per step of all ranks together, from which the accumulation follows; 0: it is as given.
    pub global_batch: usize,
    /// Keep only block inputs and compute the inside of blocks again in the backward pass.
    pub checkpointing: bool,
    /// Steps between lines of metrics.
    pub log_every: usize,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 1,
            accumulation: 1,
            global_batch: 0,
            checkpointing: true,
            log_every: 1,
        }
    }
}

/// `[validation]`
#[derive(Debug, Clone, PartialEq)]
pub struct ValidationConfig {
    /// Steps between validations.
    pub every: usize,
    /// Folder or list of held-out clips; the training clips without it.
    pub path: Option<PathBuf>,
    /// Noise levels, each with its own fixed noise.
    pub sigmas: Vec<f64>,
}

/// The file format of sample videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleFormat {
    /// H.264 in MP4.
    Mp4,
    /// Animated GIF.
    Gif,
    /// Animated WebP, lossless.
    Webp,
}

impl fmt::Display for SampleFormat {
    /// The ending of file names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mp4 => "mp4",
            Self::Gif => "gif",
            Self::Webp => "webp",
        })
    }
}

/// A text that names no format of sample videos.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is none of mp4, gif, webp")]
pub struct ParseSampleFormatError {
    /// What was given.
    pub text: String,
}

impl FromStr for SampleFormat {
    type Err = ParseSampleFormatError;

    fn from_str(text: &str) -> Result<Self, ParseSampleFormatError> {
        match text {
            "mp4" => Ok(Self::Mp4),
            "gif" => Ok(Self::Gif),
            "webp" => Ok(Self::Webp),
            _ => Err(ParseSampleFormatError { text: text.into() }),
        }
    }
}

/// `[samples]`
#[derive(Debug, Clone, PartialEq)]
pub struct SampleConfig {
    /// Steps between samples.
    pub every: usize,
    /// One video per prompt.
    pub prompts: Vec<String>,
    /// What to keep away from, with guidance.
    pub negative_prompt: String,
    /// Size of the videos.
    pub size: VideoSize,
    /// Their frames, 4n + 1.
    pub frames: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale, above 1.
    pub guidance: Option<f64>,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Format of the files.
    pub format: SampleFormat,
}

/// `[checkpoints]`
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; the last step has one in any case.
    pub every: Option<usize>,
    /// How many to keep, where not all are kept.
    pub keep: Option<usize>,
    /// Adapter format.
    pub format: Format,
    /// Write fused layers by their parts, in formats that can.
    pub split: bool,
}
