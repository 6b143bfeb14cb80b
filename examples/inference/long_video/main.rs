//! A long video, segment by segment; a stopped run goes on where it was.

use std::error::Error;

use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{
    ContinuationRequest, LongVideo, PixelFrames, Sampling, SeededNoise, Silent, TextToVideoRequest,
};

#[derive(Parser)]
struct Args {
    /// One prompt per segment.
    #[arg(required = true)]
    prompts: Vec<String>,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Args { prompts, common } = Args::parse();
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    let defaults = *pipeline.checkpoint().defaults();
    let sampling = common.sampling(Sampling::standard());
    let work = common.output.join("long.mp4.segments");
    let long = LongVideo::open(&work, &format!("{prompts:?} {sampling:?}"))?;
    let mut frames = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        if !long.has(index) {
            let mut noise = SeededNoise::new(index as u64);
            let latents = if index == 0 {
                let request = TextToVideoRequest {
                    sampling: sampling.clone(),
                    ..TextToVideoRequest::new(prompt)
                };
                pipeline.text_to_video(&request, &mut noise, &mut Silent)?
            } else {
                let request = ContinuationRequest {
                    sampling: sampling.clone(),
                    ..ContinuationRequest::new(long.read(index - 1)?, prompt)
                };
                pipeline.continue_video(&request, &mut noise, &mut Silent)?
            };
            long.keep(index, &pipeline.decode(&latents, &mut Silent)?[0])?;
        }
        // Each segment repeats the end of the one before.
        let repeated = if index == 0 { 0 } else { defaults.cond_frames };
        frames.extend(long.read(index)?.images().skip(repeated));
    }
    common.write(
        "long.mp4",
        &PixelFrames::from_images(&frames)?,
        defaults.fps,
    )
}
