//! Weights from several places.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use longcat_video::CheckpointParts;

use crate::session::checkpoint_dir;

/// Parts of a checkpoint that lie elsewhere than the rest, in any format and layout that is read.
#[derive(Debug, Args, Clone, Default)]
pub struct Weights {
    /// Transformer: a file (safetensors, GGUF, PyTorch), or a folder of one or of shards.
    #[arg(long, value_name = "FILE")]
    pub dit: Option<PathBuf>,
    /// UMT5 text encoder: a file, or a folder of one or of shards.
    #[arg(long, value_name = "FILE")]
    pub text_encoder: Option<PathBuf>,
    /// Wan 2.1 VAE: a file or folder.
    #[arg(long, value_name = "FILE")]
    pub vae: Option<PathBuf>,
    /// Tokenizer: tokenizer.json or spiece.model, or a folder with one; some text encoders carry it.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

impl Weights {
    /// Where all parts lie; without `model` and parts the small built-in checkpoint.
    pub fn with(&self, model: Option<&Path>) -> Result<CheckpointParts> {
        let parts = CheckpointParts {
            model: model.map(|model| checkpoint_dir(Some(model))).transpose()?,
            transformer: self.dit.clone(),
            text_encoder: self.text_encoder.clone(),
            vae: self.vae.clone(),
            tokenizer: self.tokenizer.clone(),
        };
        match parts.is_empty() {
            true => Ok(checkpoint_dir(None)?.into()),
            false => Ok(parts),
        }
    }
}
