//! The command line of `longcat lora`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::lora_arg::LoraArg;

#[derive(Debug, Subcommand)]
pub enum Lora {
    /// Show format, ranks, scales, layers, metadata and problems of an adapter.
    Inspect(LoraInspect),
    /// Write an adapter in another format.
    Convert(LoraConvert),
    /// Merge adapters into a copy of a checkpoint, which `--model` then opens.
    Merge(LoraMerge),
    /// Make one adapter of several, with their ranks side by side.
    Combine(LoraCombine),
    /// Write an adapter with fewer ranks, as close to it as they allow.
    Resize(LoraResize),
    /// Make the adapter that turns one checkpoint into another, as closely as its rank allows.
    Extract(LoraExtract),
}

#[derive(Debug, Args)]
pub struct LoraInspect {
    /// Adapter file, or PEFT directory.
    pub file: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LoraConvert {
    /// Adapter file, or PEFT directory.
    pub file: PathBuf,
    /// Where to write (a directory for PEFT).
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Format to write: official, peft, diffusers, comfyui, kohya, fastvideo or diffsynth.
    #[arg(long, value_name = "FORMAT")]
    pub to: String,
    /// Write fused layers (qkv, kv) part by part, as separate layers.
    #[arg(long)]
    pub split: bool,
    /// Replace what exists there.
    #[arg(short = 'y', long)]
    pub overwrite: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LoraCombine {
    /// Adapter files or folders, with their strengths and the layers that count, as for --lora; or lists.
    #[arg(value_name = "PATH[=STRENGTH][@LAYERS]...", required = true)]
    pub files: Vec<LoraArg>,
    /// Where to write (a directory for PEFT).
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Format to write: official, peft, diffusers, comfyui, kohya, fastvideo or diffsynth.
    #[arg(long, value_name = "FORMAT", default_value = "official")]
    pub to: String,
    /// Replace what exists there.
    #[arg(short = 'y', long)]
    pub overwrite: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("rule").required(true)))]
pub struct LoraResize {
    /// Adapter file or folder.
    pub file: PathBuf,
    /// The largest rank of the result.
    #[arg(long, value_name = "R", group = "rule")]
    pub rank: Option<usize>,
    /// The share of the sum of squared singular values to keep, such as 0.98; ranks follow from it.
    #[arg(long, value_name = "SHARE", group = "rule")]
    pub energy: Option<f64>,
    #[command(flatten)]
    pub written: LoraWritten,
}

#[derive(Debug, Args)]
pub struct LoraExtract {
    /// Checkpoint directory, or the directory or file of a transformer.
    pub base: PathBuf,
    /// The same after training.
    pub tuned: PathBuf,
    /// Rank of the adapter (of each part of a fused layer).
    #[arg(long, value_name = "R", default_value_t = 64)]
    pub rank: usize,
    #[command(flatten)]
    pub written: LoraWritten,
}

/// Where and how a new adapter is written.
#[derive(Debug, Args)]
pub struct LoraWritten {
    /// Where to write (a directory for PEFT).
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Format to write: official, peft, diffusers, comfyui, kohya, fastvideo or diffsynth.
    #[arg(long, value_name = "FORMAT", default_value = "official")]
    pub to: String,
    /// Replace what exists there.
    #[arg(short = 'y', long)]
    pub overwrite: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LoraMerge {
    /// Adapter files or folders, with their strengths and the layers that count, as for --lora; or lists.
    #[arg(value_name = "PATH[=STRENGTH][@LAYERS]...", required = true)]
    pub files: Vec<LoraArg>,
    /// Checkpoint directory, or the name of a repository that `longcat pull` brought; by default the small
    /// built-in checkpoint.
    #[arg(long, value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,
    /// Keep packed weights packed: those that change are packed again in the same way, which costs them some
    /// precision. Without it, packed weights become bf16.
    #[arg(long)]
    pub requantize: bool,
    /// Where to write the merged checkpoint. What is not the transformer is linked to or copied.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}
