//! Arguments for weights that are packed.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use longcat_runtime::DeviceList;
use longcat_video::{AttentionNumbers, Precision, Products, VideoSize};

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

/// In which numbers packed matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Multiplied {
    /// Those of --dtype, which matrices are unpacked to.
    #[value(alias = "bf16")]
    Dense,
    /// fp8, to which activations are rounded with a scale for each token; matrices must be fp8, too.
    Fp8,
}

impl From<Multiplied> for Products {
    fn from(multiplied: Multiplied) -> Self {
        match multiplied {
            Multiplied::Dense => Self::Dense,
            Multiplied::Fp8 => Self::Fp8,
        }
    }
}

/// In which numbers self-attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attended {
    /// Those of --dtype.
    #[value(alias = "dense")]
    Bf16,
    /// Eight bits: queries and keys in int8, probabilities and values in fp8.
    Fp8,
}

impl From<Attended> for AttentionNumbers {
    fn from(attended: Attended) -> Self {
        match attended {
            Attended::Bf16 => Self::Floats,
            Attended::Fp8 => Self::Fp8,
        }
    }
}

/// One of the ways that pack matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedAs(Kept);

impl ValueEnum for PackedAs {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(Kept::Fp8),
            Self(Kept::Int8),
            Self(Kept::Q8_0),
            Self(Kept::Q4K),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        self.0.to_possible_value()
    }
}

impl From<PackedAs> for Precision {
    fn from(packed: PackedAs) -> Self {
        packed.0.into()
    }
}

#[derive(Debug, Args)]
pub struct Calibrate {
    /// What the video shows whose latents the layers are tried on: a text, @FILE, or - for standard input.
    pub prompt: String,
    /// Checkpoint directory, a folder of single files, or the name of a repository that `longcat pull` or
    /// another program brought, as in meituan-longcat/LongCat-Video; by default the small built-in
    /// checkpoint.
    #[arg(long, value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub weights: Weights,
    /// Where to run; by default the best device there is.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceList>,
    /// Size in pixels; by default the checkpoint's.
    #[arg(long, value_name = "WxH")]
    pub size: Option<VideoSize>,
    /// Number of frames, 4n + 1.
    #[arg(long, value_name = "N", default_value_t = 13)]
    pub frames: usize,
    /// Denoising steps of the video, without guidance.
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub steps: usize,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Layers that stay out of fp8, those that suffer most; by default one of twenty.
    #[arg(long, value_name = "N")]
    pub floats: Option<usize>,
    /// Where to write; by default fp8_layers.json beside the weights, where --products fp8 reads it.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace a file that exists.
    #[arg(short = 'y', long)]
    pub overwrite: bool,
    /// Print all layers with their errors as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Quantize {
    /// Checkpoint directory, a folder of single files, or the name of a repository that `longcat pull` or
    /// another program brought, as in meituan-longcat/LongCat-Video; by default the small built-in
    /// checkpoint.
    #[arg(long, value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub weights: Weights,
    /// Type to pack the matrices of attention and feed-forward to; fp8 and int8 are written as safetensors, the
    /// others as GGUF.
    #[arg(long, value_enum)]
    pub to: PackedAs,
    /// Where to write: a new directory.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}
