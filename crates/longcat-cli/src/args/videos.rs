//! Arguments of the commands that make a video.

use std::path::PathBuf;

use clap::Args;
use longcat_video::{EasyCache, VideoSize};

use super::Model;
use crate::lora_arg::LoraArg;

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
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
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
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
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
    /// Quality of an mp4, 0 to 100. From 62 up it can be read and written again at little loss; below, files
    /// are much smaller.
    #[arg(long, default_value_t = 70, value_name = "Q", value_parser = clap::value_parser!(u8).range(0..=100))]
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
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    pub seed: u64,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub output: Output,
}

/// Elsewhere -1 draws a seed.
fn seed(text: &str) -> Result<u64, String> {
    let told = "expected a whole number from 0 on; each makes another video, and the same video every time";
    text.parse().map_err(|_| told.into())
}
