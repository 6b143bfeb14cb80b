//! An adapter merged into the weights, so that it costs nothing per step, and taken out again.

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{DynPipeline, RuntimeOptions, open_pipeline};
use longcat_video::{
    CFG_STEP_LORA, PixelFrames, Sampling, SeededNoise, Silent, TextToVideoRequest, VideoError,
};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let Args { common } = Args::parse();
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    let request = TextToVideoRequest {
        sampling: common.sampling(Sampling::distilled()),
        ..TextToVideoRequest::new("a yellow square grows")
    };
    let make = |pipeline: &mut dyn DynPipeline| -> Result<PixelFrames, VideoError> {
        let latents = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
        Ok(pipeline.decode(&latents, &mut Silent)?.swap_remove(0))
    };
    let adapter = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA)?;
    pipeline.load_lora(CFG_STEP_LORA, &adapter)?;
    pipeline.use_loras(&[(CFG_STEP_LORA, 1.0)])?;
    let beside = make(&mut *pipeline)?;
    pipeline.merge_loras()?;
    let merged = make(&mut *pipeline)?;
    // The weights are read from the checkpoint again, and are what they were bit for bit.
    pipeline.unmerge_loras()?;
    let again = make(&mut *pipeline)?;
    for (name, video) in [("merged", &merged), ("unmerged again", &again)] {
        let pixels = beside.as_bytes().iter().zip(video.as_bytes());
        let largest = pixels.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        println!("{name}: pixels differ from those before by at most {largest} of 255");
    }
    common.write("merged.mp4", &merged, pipeline.checkpoint().defaults().fps)
}
