//! Arguments that say which models run, where, and with which adapters.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use longcat_runtime::{DType, DeviceList};
use longcat_video::MemoryLimit;

use super::{Attended, Kept, Multiplied};
use crate::lora_arg::LoraArg;
use crate::weights_arg::Weights;

/// Which checkpoint, where.
#[derive(Debug, Args, Clone)]
pub struct Place {
    /// Checkpoint directory, a folder of single files, or the name of a repository that `longcat pull` or
    /// another program brought, as in meituan-longcat/LongCat-Video; by default the small built-in
    /// checkpoint.
    #[arg(long, value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub weights: Weights,
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1; by default the best device there is. Several, as in
    /// cuda:0,cuda:1, share the denoising.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceList>,
    /// Type of computation; by default bf16 on cuda, f16 on wgpu where the device has it, and f32 elsewhere.
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// How the large matrices of transformer and text encoder are kept on the device.
    #[arg(long, value_enum, default_value_t = Kept::Stored)]
    pub precision: Kept,
    /// In which numbers fp8 matrices of the transformer are multiplied; fp8 is faster on an NVIDIA GPU of the
    /// generation of Ada, Hopper or later, and changes the video a little.
    #[arg(long, value_enum, default_value_t = Multiplied::Dense)]
    pub products: Multiplied,
    /// In which numbers the tokens of a video attend to each other; fp8 is faster on an NVIDIA GPU of the
    /// generation Hopper with heads of 128 channels, and changes the video a little.
    #[arg(long, value_enum, default_value_t = Attended::Bf16)]
    pub attention: Attended,
    /// Memory of the device that may be taken: auto for what is free, unlimited, or a limit such as 12GiB.
    /// What does not fit passes through the device part by part (`longcat plan` says what).
    #[arg(long, value_name = "AMOUNT", default_value_t = MemoryLimit::Auto)]
    pub memory: MemoryLimit,
    /// Encode and decode frames above 256x256 tile by tile: less memory, a slightly different result. With a
    /// limit of memory larger tiles are taken by themselves where whole pictures do not fit.
    #[arg(long)]
    pub vae_tiling: bool,
    /// On cuda, multiply matrices with Burn's kernels instead of cuBLASLt.
    #[arg(long)]
    pub no_cublas: bool,
}

/// Which models, where.
#[derive(Debug, Args, Clone)]
pub struct Model {
    #[command(flatten)]
    pub place: Place,
    /// LoRA adapter in any format that is read, with its strength (1 by default); may be repeated. Acts
    /// in every stage, also in refining.
    ///
    /// Where and when it acts may follow, each with an @ and all at once: layers (@blocks.10-30, @attn,ffn,
    /// @blocks.*.ffn.w1), steps (@steps.0-50%, @steps.1-8), a stage (@first, @refine). A .toml file lists
    /// adapters. docs/lora.md has the grammar.
    #[arg(long = "lora", value_name = "PATH[=STRENGTH][@PART]...")]
    pub loras: Vec<LoraArg>,
    /// Merge the adapters of each stage into the weights before sampling.
    #[arg(long)]
    pub merge: bool,
    /// With --merge: weights that are packed are packed again with the adapters in them, which costs them some
    /// precision. Without it, merging into packed weights is refused.
    #[arg(long, requires = "merge")]
    pub requantize: bool,
    /// Refinement adapter, with its strength; by default the checkpoint's refinement_lora.
    #[arg(long, value_name = "PATH[=STRENGTH]")]
    pub refine_lora: Option<LoraArg>,
    /// Free each network after use, so that only one is on the device at a time; --memory does so by itself
    /// where it must.
    #[arg(long)]
    pub low_memory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
        }
    }
}
