//! Several adapters on one loaded model, switched between videos without a reload.

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{
    CFG_STEP_LORA, REFINEMENT_LORA, Sampling, SeededNoise, Silent, TextToVideoRequest,
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
    for name in [CFG_STEP_LORA, REFINEMENT_LORA] {
        let adapter = pipeline.checkpoint().bundled_lora(name)?;
        pipeline.load_lora(name, &adapter)?;
    }
    let request = TextToVideoRequest {
        sampling: common.sampling(Sampling::distilled()),
        ..TextToVideoRequest::new("a blue star rotates")
    };
    let choices: [(&str, &[(&str, f64)]); 3] = [
        ("plain.mp4", &[]),
        ("one.mp4", &[(CFG_STEP_LORA, 1.0)]),
        ("both.mp4", &[(CFG_STEP_LORA, 1.0), (REFINEMENT_LORA, 0.3)]),
    ];
    for (name, chosen) in choices {
        pipeline.use_loras(chosen)?;
        let latents = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
        let video = &pipeline.decode(&latents, &mut Silent)?[0];
        common.write(name, video, pipeline.checkpoint().defaults().fps)?;
    }
    Ok(())
}
