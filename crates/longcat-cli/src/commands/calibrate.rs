//! `longcat calibrate`: which layers suffer from products in fp8.

use anyhow::{Result, bail};
use longcat_cli::{device_or_best, printable, say};
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{
    Fp8Layers, Precision, Products, Sampling, SeededNoise, TextToVideoRequest, VideoRequest,
};

use crate::args::Calibrate;
use crate::output::check_file;
use crate::prompt::prompt;
use crate::stage_bar::StageBar;
use crate::stage_times::StageTimes;

/// Layers that are named.
const NAMED: usize = 10;
/// Of so many layers one stays out by default.
const ONE_OF: usize = 20;

pub fn run(args: &Calibrate) -> Result<()> {
    if args.model.is_none() && args.weights.dit.is_none() && args.output.is_none() {
        bail!("the built-in checkpoint is not written to: name a file with --output");
    }
    if let Some(output) = &args.output {
        check_file(output, args.overwrite)?;
    }
    let request = TextToVideoRequest {
        size: args.size,
        frames: Some(args.frames),
        sampling: Sampling {
            steps: args.steps,
            guidance: 1.0,
            ..Sampling::standard()
        },
        ..TextToVideoRequest::new(prompt(&args.prompt)?)
    };
    let devices = device_or_best(args.device.clone());
    let options = RuntimeOptions {
        precision: Precision::Fp8,
        products: Products::Fp8,
        ..RuntimeOptions::default()
    };
    let parts = args.weights.with(args.model.as_deref())?;
    let mut pipeline = open_pipeline(&devices, parts, &options)?;
    pipeline.plan(VideoRequest::TextToVideo(&request))?;
    let beside = || Fp8Layers::path(pipeline.checkpoint().transformer_dir());
    let output = args.output.clone().unwrap_or_else(beside);
    check_file(&output, args.overwrite)?;
    let mut bar = StageBar::new(longcat_cli::interrupt()?, StageTimes::new());
    let noise = &mut SeededNoise::new(args.seed);
    let errors = pipeline.fp8_errors(&request, noise, &mut bar)?;
    bar.finish();
    let floats = args.floats.unwrap_or(errors.len() / ONE_OF);
    let layers = Fp8Layers::of_errors(errors, floats);
    layers.write(&output)?;
    if args.json {
        say!("{}", serde_json::to_string(&layers)?);
        return Ok(());
    }
    let mut worst: Vec<_> = layers.errors.iter().collect();
    worst.sort_by(|a, b| b.1.total_cmp(a.1));
    for (name, error) in worst.iter().take(NAMED.max(floats)) {
        let stays = if layers.floats.contains(*name) {
            ", stays out"
        } else {
            ""
        };
        say!("{name:32} {error:.2e}{stays}");
    }
    say!(
        "{}: {} of {} layers stay out of fp8",
        printable(&output.to_string_lossy()),
        layers.floats.len(),
        layers.errors.len()
    );
    Ok(())
}
