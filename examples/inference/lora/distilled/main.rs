//! The distilled adapter: 16 steps without guidance instead of 50 with it.

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{CFG_STEP_LORA, Sampling, SeededNoise, Silent, TextToVideoRequest};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let Args { common } = Args::parse();
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    let adapter = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA)?;
    pipeline.load_lora(CFG_STEP_LORA, &adapter)?;
    pipeline.use_loras(&[(CFG_STEP_LORA, 1.0)])?;
    let request = TextToVideoRequest {
        sampling: common.sampling(Sampling::distilled()),
        ..TextToVideoRequest::new("a green star rotates")
    };
    let latents = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
    let video = &pipeline.decode(&latents, &mut Silent)?[0];
    common.write("distilled.mp4", video, pipeline.checkpoint().defaults().fps)
}
