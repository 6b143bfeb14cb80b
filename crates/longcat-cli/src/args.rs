//! The command line.

mod batch;
mod habits;
mod hub;
mod lora;
mod models;
mod precision;
mod serve;
mod videos;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::weights_arg::Weights;

pub use batch::{Batch, Setting};
pub use hub::{Models, Pull};
pub use models::{Dtype, Model, Place};
pub use precision::{Attended, Calibrate, Kept, Multiplied, Quantize};
pub use serve::Serve;
pub use videos::{Continue, ImageToVideo, Long, Output, OutputFile, Refine, Sampler, TextToVideo};

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
        let args: Vec<OsString> = std::env::args_os().collect();
        let read = Self::parser().try_get_matches_from(&args);
        let read = read.and_then(|matches| Self::from_arg_matches(&matches));
        read.unwrap_or_else(|error| habits::with_habits(error, &Self::parser(), &args).exit())
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
