//! The sections about optimising and what a run writes.

use std::path::PathBuf;

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    /// Limit of the norm over all gradients; 0 for none.
    pub max_grad_norm: f64,
    /// Decay of the running average of trained parameters per step; 0 for no average.
    pub ema_decay: f64,
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            schedule: ScheduleKind::Constant,
            warmup_steps: 0,
            min_learning_rate: 0.0,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            ema_decay: 0.0,
        }
    }
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoopConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Clips per forward pass.
    pub batch: usize,
    /// Forward passes per step.
    pub accumulation: usize,
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
            checkpointing: true,
            log_every: 1,
        }
    }
}

/// `[validation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Steps between validations; 0 for none.
    pub every: usize,
    /// Folder or list of held-out clips; the training clips when empty.
    pub path: PathBuf,
    /// Noise levels, each with its own fixed noise.
    pub sigmas: Vec<f64>,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            every: 0,
            path: PathBuf::new(),
            sigmas: vec![0.2, 0.4, 0.6, 0.8, 0.95],
        }
    }
}

/// `[samples]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// Steps between samples; 0 for none.
    pub every: usize,
    /// One video per prompt.
    pub prompts: Vec<String>,
    /// What to keep away from, with guidance above 1.
    pub negative_prompt: String,
    /// `WIDTHxHEIGHT`; the first size of the data when empty.
    pub size: String,
    /// Frames (4n + 1); the largest count of the data when 0.
    pub frames: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale; 1 for none.
    pub guidance: f64,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Ending of the files: mp4, gif or webp.
    pub format: String,
}

impl Default for SampleConfig {
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

/// `[checkpoints]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0 for the last step only.
    pub every: usize,
    /// How many to keep; 0 for all.
    pub keep: usize,
    /// Adapter format: official, peft, diffusers, comfyui or kohya.
    pub format: String,
    /// Write fused layers by their parts, in formats that can.
    pub split: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every: 250,
            keep: 3,
            format: "official".into(),
            split: false,
        }
    }
}
