//! The command line.

mod batch;
mod hub;
mod lora;
mod precision;
mod serve;

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use longcat_runtime::{DType, DeviceList};
use longcat_video::{EasyCache, MemoryLimit, VideoSize};

use crate::lora_arg::LoraArg;
use crate::weights_arg::Weights;

pub use batch::{Batch, Setting};
pub use hub::{Models, Pull};
pub use precision::{Attended, Calibrate, Kept, Multiplied, Quantize};
pub use serve::Serve;

pub use lora::{
    Lora, LoraCombine, LoraConvert, LoraExtract, LoraInspect, LoraMerge, LoraResize, LoraWritten,
};

/// Videos from prompts, images and videos with LongCat-Video, and tools for its LoRA adapters.
#[derive(Debug, Parser)]
#[command(name = "longcat", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The arguments of the process; ends it where they are wrong.
    pub fn read() -> Self {
        let matches = Self::parser().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// What [`Self::read`] asks: a plan writes nothing, and needs no name of a file for it.
    fn parser() -> clap::Command {
        let without_output = |command: clap::Command| {
            // Training names it in its file.
            if command.get_arguments().all(|arg| arg.get_id() != "output") {
                return command;
            }
            command.mut_arg("output", |arg| {
                arg.required(false).default_value("video.mp4").hide(true)
            })
        };
        Self::command().mut_subcommand("plan", |plan| plan.mut_subcommands(without_output))
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a video from a prompt.
    T2v(TextToVideo),
    /// Make a video that begins with an image.
    I2v(ImageToVideo),
    /// Continue a video.
    Continue(Continue),
    /// Make a long video segment by segment, with one prompt for all or one for each.
    Long(Long),
    /// Refine a video: more pixels, twice the frame rate.
    Refine(Refine),
    /// Make many videos with one loaded model, from a list of requests; one process or many.
    Batch(Batch),
    /// Serve a page and an HTTP API that make videos with one loaded model, from a queue.
    Serve(Serve),
    /// Say what a command with these arguments would take of the device's memory and of time, and what it
    /// would do to fit, before anything is loaded.
    #[command(subcommand)]
    Plan(Plan),
    /// Turn latents of --save-latents into a video.
    Decode(Decode),
    /// Inspect, convert and merge LoRA adapters.
    #[command(subcommand)]
    Lora(Lora),
    /// Train a LoRA adapter on clips with captions.
    TrainLora(longcat_cli::TrainLora),
    /// Tell what a video, a picture or latents are and were made with, or what weights are.
    Inspect(Inspect),
    /// Write a checkpoint as an official directory, or its transformer as one file for ComfyUI.
    Convert(Convert),
    /// Write a checkpoint whose large matrices are packed: fp8, int8, q8_0 or q4_k.
    Quantize(Quantize),
    /// Find the layers that suffer most from --products fp8, and write beside the weights that they stay out.
    Calibrate(Calibrate),
    /// Download a model from the Hugging Face hub into its cache, where --model finds it by its name. Goes
    /// on where it was stopped.
    Pull(Pull),
    /// List the models and adapters in the Hugging Face cache.
    Models(Models),
    /// List the usable devices.
    Devices(Devices),
}

/// What is planned: a command with all its arguments.
#[derive(Debug, Subcommand)]
pub enum Plan {
    /// As `longcat t2v`.
    T2v(TextToVideo),
    /// As `longcat i2v`.
    I2v(ImageToVideo),
    /// As `longcat continue`.
    Continue(Continue),
    /// As `longcat long`.
    Long(Long),
    /// As `longcat refine`.
    Refine(Refine),
    /// As `longcat train-lora`: memory alone, of each rank.
    TrainLora(longcat_cli::TrainLora),
}

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

/// How to sample.
#[derive(Debug, Args, Clone)]
pub struct Sampler {
    /// Use the checkpoint's cfg_step_lora, or another distilled adapter with its strength: 16 steps
    /// without guidance. Does not act in refining.
    #[arg(long, value_name = "PATH[=STRENGTH]", num_args = 0..=1, require_equals = true)]
    pub distill: Option<Option<LoraArg>>,
    /// Denoising steps; 50, or 16 with --distill.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Guidance scale; 4, or 1 with --distill.
    #[arg(long, value_name = "G")]
    pub guidance: Option<f64>,
    /// Negative prompt: what the video should not show; needs guidance above 1.
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        hide_default_value = true
    )]
    pub negative: String,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Refine the result with the checkpoint's refinement_lora.
    #[arg(long)]
    pub refine: bool,
    /// Leave out passes of the transformer whose result the last ones foretell, also in refining: easy
    /// (EasyCache), with the relative change that is let pass, 0.05 by default. Videos differ a little.
    #[arg(long, value_name = "easy[=THRESHOLD]")]
    pub cache: Option<EasyCache>,
}

/// What to write.
#[derive(Debug, Args, Clone)]
pub struct Output {
    /// Also write the latents, which `longcat decode` turns into a video.
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    /// Keep a small moving picture of what the video is coming to beside the output, as NAME.preview.webp, and
    /// replace it after every step.
    #[arg(long)]
    pub preview: bool,
    #[command(flatten)]
    pub file: OutputFile,
}

/// The file to write.
#[derive(Debug, Args, Clone, Default)]
pub struct OutputFile {
    /// Where to write: .mp4, .gif, .webp, a folder for PNG frames, or .safetensors for latents only.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Frames per second of the file; by default those of the checkpoint.
    #[arg(long, value_name = "FPS")]
    pub fps: Option<f64>,
    /// Quality of the video file, 0 to 100.
    #[arg(long, default_value_t = 75, value_name = "Q", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub quality: u8,
    /// Replace files that exist.
    #[arg(short = 'y', long)]
    pub overwrite: bool,
    /// Leave prompt, seed, model, adapters and other settings out of the files.
    #[arg(long)]
    pub no_metadata: bool,
    /// Print the result as one line of JSON, with the settings and the seconds of each stage.
    #[arg(long)]
    pub json: bool,
    /// Print the seconds of each stage on stderr.
    #[arg(long)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
pub struct TextToVideo {
    /// What the video shows: a text, @FILE, or - for standard input.
    pub prompt: String,
    /// Size in pixels; by default the checkpoint's.
    #[arg(long, value_name = "WxH")]
    pub size: Option<VideoSize>,
    /// Number of frames, 4n + 1; by default the checkpoint's.
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    #[command(flatten)]
    pub sampler: Sampler,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ImageToVideo {
    /// The first frame.
    pub image: PathBuf,
    /// What the video shows: a text, @FILE, or - for standard input.
    pub prompt: String,
    /// Size in pixels, for which the image is cropped in the middle. Without it the video has the shape
    /// of the image: it is made at the trained size nearest in shape and stretched back.
    #[arg(long, value_name = "WxH")]
    pub size: Option<VideoSize>,
    /// Number of frames, 4n + 1; by default the checkpoint's.
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    #[command(flatten)]
    pub sampler: Sampler,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub output: Output,
}

/// How condition frames are used.
#[derive(Debug, Args, Clone)]
pub struct Condition {
    /// Condition frames: how many of the last frames the new ones continue, 4n + 1; by default the
    /// checkpoint's (13 in the release), or as many as a shorter clip has.
    #[arg(long, value_name = "N")]
    pub cond_frames: Option<usize>,
    /// Pass the condition frames through the transformer in every step instead of caching their keys
    /// and values.
    #[arg(long)]
    pub no_kv_cache: bool,
    /// Keep the cache of keys and values in host memory.
    #[arg(long, conflicts_with = "no_kv_cache")]
    pub offload_kv_cache: bool,
    /// Use the plain schedule instead of the one with finer steps at low noise.
    #[arg(long)]
    pub no_enhance_hf: bool,
}

#[derive(Debug, Args)]
pub struct Continue {
    /// The video to continue, which is brought to the checkpoint's frame rate.
    pub video: PathBuf,
    /// What happens next: a text, @FILE, or - for standard input.
    pub prompt: String,
    /// Size in pixels, for which the video is cropped in the middle. Without it the result has the
    /// shape of the video: it is made at the trained size nearest in shape and stretched back.
    #[arg(long, value_name = "WxH")]
    pub size: Option<VideoSize>,
    /// Frames that are made, condition frames included, 4n + 1; by default the checkpoint's.
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Put the whole video in front of the new frames, in place of the condition frames.
    #[arg(long, visible_alias = "keep-source")]
    pub with_source: bool,
    #[command(flatten)]
    pub condition: Condition,
    #[command(flatten)]
    pub sampler: Sampler,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Long {
    /// One prompt for all segments, or one per segment; @FILE, or - for standard input, has one in each
    /// line.
    #[arg(required = true)]
    pub prompts: Vec<String>,
    /// Number of segments; by default the number of prompts.
    #[arg(long, value_name = "N")]
    pub segments: Option<usize>,
    /// Size in pixels; by default the checkpoint's.
    #[arg(long, value_name = "WxH")]
    pub size: Option<VideoSize>,
    /// Frames per segment, condition frames included, 4n + 1; by default the checkpoint's.
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Folder that keeps finished segments, from which a stopped run goes on; by default beside the
    /// output, until that is written.
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    #[command(flatten)]
    pub condition: Condition,
    #[command(flatten)]
    pub sampler: Sampler,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Refine {
    /// The video to refine.
    pub video: PathBuf,
    /// The prompt it was made from: a text, @FILE, or - for standard input.
    pub prompt: String,
    /// Refined size, multiples of 64; by default the size for refining nearest in shape.
    #[arg(long, value_name = "WxH")]
    pub size: Option<VideoSize>,
    /// Keep the frames as they are in time. Without it the video is brought to the checkpoint's frame
    /// rate (15 in the release), which is then doubled.
    #[arg(long)]
    pub spatial_only: bool,
    /// Condition frames of the first stage, as an image or a video (its last frames).
    #[arg(long, value_name = "FILE")]
    pub condition: Option<PathBuf>,
    /// Frames of the refined video that the condition covers.
    #[arg(long, default_value_t = 1, value_name = "N", requires = "condition")]
    pub cond_frames: usize,
    /// Steps of the full schedule, of which those below the threshold run.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub steps: usize,
    /// Share of noise that refining starts from.
    #[arg(long, default_value_t = 0.5, value_name = "T")]
    pub threshold: f32,
    /// Leave out passes of the transformer whose result the last ones foretell: easy (EasyCache), with
    /// the relative change that is let pass, 0.05 by default. Videos differ a little.
    #[arg(long, value_name = "easy[=THRESHOLD]")]
    pub cache: Option<EasyCache>,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Decode {
    /// Latents that --save-latents wrote.
    pub latents: PathBuf,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub output: OutputFile,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A video, a picture, a folder of pictures or latents; a file of weights, a folder of one network, a
    /// checkpoint or a folder of single files.
    pub path: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `longcat convert` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// A directory as the release has it.
    Official,
    /// The transformer alone, one file under the names of Kijai's ComfyUI nodes.
    Comfyui,
}

#[derive(Debug, Args)]
pub struct Convert {
    /// Checkpoint directory, a folder of single files, or the name of a repository that `longcat pull` or
    /// another program brought, as in meituan-longcat/LongCat-Video; by default the small built-in
    /// checkpoint.
    #[arg(long, value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub weights: Weights,
    /// Where to write: a new directory, or a .safetensors file.
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Layout to write.
    #[arg(long, value_enum)]
    pub to: Layout,
    /// Type of all weights; by default floats stay what they are, and packed weights become bf16.
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Replace a file that exists.
    #[arg(short = 'y', long)]
    pub overwrite: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Devices {
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::parser().debug_assert();
        let plan = ["longcat", "plan", "t2v", "a cat"];
        assert!(Cli::parser().try_get_matches_from(plan).is_ok());
        let made = ["longcat", "t2v", "a cat"];
        assert!(Cli::parser().try_get_matches_from(made).is_err());
    }
}
