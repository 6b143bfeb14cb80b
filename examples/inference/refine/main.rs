//! A video is refined: more pixels and twice the frame rate.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::media::{ReadOptions, read_video};
use longcat_video::{PixelFrames, RefineRequest, SeededNoise, Silent};

#[derive(Parser)]
struct Args {
    /// The video.
    video: PathBuf,
    /// The prompt it was made from.
    #[arg(default_value = "a red circle moves right")]
    prompt: String,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let read = read_video(&args.video, &ReadOptions::default())?;
    let fps = 2.0 * read.fps();
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    let mut request = RefineRequest::new(PixelFrames::from_video(read)?, args.prompt);
    request.steps = common.steps.unwrap_or(request.steps);
    // The checkpoint's refinement adapter and block-sparse attention are on for this call alone.
    let video = pipeline.refine(&request, &mut SeededNoise::new(0), &mut Silent)?;
    common.write("refined.mp4", &video, fps)
}
