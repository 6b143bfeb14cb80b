//! Arguments for weights that are packed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use longcat_video::Precision;

use crate::weights_arg::Weights;

/// How matrices are kept on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kept {
    /// As the file has them: packed, or floats of --dtype.
    Stored,
    /// Floats of --dtype.
    Dense,
    /// One byte a weight, e4m3 with a scale for each matrix.
    Fp8,
    /// One byte a weight, integers with a scale for each row.
    Int8,
    /// 8.5 bits a weight, GGUF's.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight, GGUF's.
    #[value(name = "q4_k")]
    Q4K,
}

impl From<Kept> for Precision {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Stored => Self::Stored,
            Kept::Dense => Self::Dense,
            Kept::Fp8 => Self::Fp8,
            Kept::Int8 => Self::Int8,
            Kept::Q8_0 => Self::Q8_0,
            Kept::Q4K => Self::Q4K,
        }
    }
}

/// What `longcat quantize` packs matrices to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PackedAs {
    /// One byte a weight, e4m3 with a scale for each matrix; safetensors.
    Fp8,
    /// One byte a weight, integers with a scale for each row; safetensors.
    Int8,
    /// 8.5 bits a weight; GGUF.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight; GGUF.
    #[value(name = "q4_k")]
    Q4K,
}

impl From<PackedAs> for Precision {
    fn from(packed: PackedAs) -> Self {
        match packed {
            PackedAs::Fp8 => Self::Fp8,
            PackedAs::Int8 => Self::Int8,
            PackedAs::Q8_0 => Self::Q8_0,
            PackedAs::Q4K => Self::Q4K,
        }
    }
}

#[derive(Debug, Args)]
pub struct Quantize {
    /// Checkpoint directory, or a folder of single files; by default the small built-in checkpoint.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub weights: Weights,
    /// Type to pack the matrices of attention and feed-forward to.
    #[arg(long, value_enum)]
    pub to: PackedAs,
    /// Where to write: a new directory.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}
