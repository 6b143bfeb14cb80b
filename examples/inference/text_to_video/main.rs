//! A prompt becomes a video.

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{Sampling, SeededNoise, Silent, TextToVideoRequest};

#[derive(Parser)]
struct Args {
    /// What the video shows.
    #[arg(default_value = "a red circle moves right")]
    prompt: String,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let Args { prompt, common } = Args::parse();
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    let request = TextToVideoRequest {
        sampling: common.sampling(Sampling::standard()),
        ..TextToVideoRequest::new(prompt)
    };
    let latents = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
    let video = &pipeline.decode(&latents, &mut Silent)?[0];
    common.write("circle.mp4", video, pipeline.checkpoint().defaults().fps)
}
