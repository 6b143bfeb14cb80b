//! An adapter is trained on one clip, and then used.

use std::fs;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline, train_lora};
use longcat_train::Bar;
use longcat_video::{Sampling, SeededNoise, Silent, TextToVideoRequest};

const CLIPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/train/overfit");
const CAPTION: &str = "a red ball bounces over green grass under a blue sky";

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let Args { common } = Args::parse();
    let steps = common.steps.unwrap_or(400);
    // Every key and its default: lora.toml, in this folder.
    let config = format!(
        r#"
        output = "adapter"
        data = {{ path = {CLIPS:?}, sizes = ["64x64"], frames = [9], fps = 0.0 }}
        lora = {{ rank = 16, alpha = 16.0, targets = ['^blocks\.', '^final_layer\.'] }}
        optimizer = {{ learning_rate = 2e-3, schedule = "cosine", warmup_steps = {} }}
        train = {{ steps = {steps}, batch = 2, checkpointing = false }}
        "#,
        steps / 20
    );
    fs::create_dir_all(&common.output)?;
    let file = common.output.join("adapter.toml");
    fs::write(&file, config)?;
    let (devices, root) = (common.devices(), common.checkpoint()?);
    // Setting it, for example by Ctrl-C, saves and ends the run; the same call goes on.
    let interrupt = AtomicBool::new(false);
    let mut bar = Bar::default();
    train_lora(devices.first(), &file, Some(&root), &mut bar, &interrupt)?;

    let mut pipeline = open_pipeline(&devices, &root, &RuntimeOptions::default())?;
    let adapter = common.output.join("adapter/adapter.safetensors");
    pipeline.load_lora("ball", &adapter)?;
    pipeline.use_loras(&[("ball", 1.0)])?;
    let request = TextToVideoRequest {
        frames: Some(9),
        sampling: Sampling {
            steps: 16,
            guidance: 1.0,
            ..Sampling::standard()
        },
        ..TextToVideoRequest::new(CAPTION)
    };
    let latents = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
    let video = &pipeline.decode(&latents, &mut Silent)?[0];
    common.write("ball.gif", video, pipeline.checkpoint().defaults().fps)
}
