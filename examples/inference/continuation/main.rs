//! A video goes on: its last frames are the first ones of the result.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{ContinuationRequest, PixelFrames, Sampling, SeededNoise, Silent};

#[derive(Parser)]
struct Args {
    /// The video.
    video: PathBuf,
    /// What happens next.
    #[arg(default_value = "a red circle moves right")]
    prompt: String,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let video = PixelFrames::read_video(&args.video)?;
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    // Keys and values of the condition frames are computed once and kept, which is the default.
    let request = ContinuationRequest {
        sampling: common.sampling(Sampling::standard()),
        ..ContinuationRequest::new(video, args.prompt)
    };
    let latents = pipeline.continue_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
    let video = &pipeline.decode(&latents, &mut Silent)?[0];
    common.write("continued.mp4", video, pipeline.checkpoint().defaults().fps)
}
