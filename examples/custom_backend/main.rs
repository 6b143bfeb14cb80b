//! A backend of one's own under the models, with two empty impls:
//! `cargo run --release -p longcat-examples --bin custom_backend`.
//!
//! [`Traced`] computes on the CPU like Burn's `Flex` and counts the calls it gets. The library has
//! never heard of it; the two lines below are all that it asks for. The heavy operations then run in
//! their portable bodies, and the same seed makes the same video as on `Flex`, which has an
//! attention kernel of its own.

use anyhow::{Result, bail};
use burn_flex::FlexDevice;
use longcat_builtin::builtin_checkpoint;
use longcat_kernels::{KernelBackend, KernelDevice};
use longcat_runtime::{DeviceSpec, DynPipeline, RuntimeOptions, open_pipeline};
use longcat_video::{
    CFG_STEP_LORA, Pipeline, PipelineOptions, Sampling, SeededNoise, Silent, TextToVideoRequest,
};

mod traced;

use traced::{Traced, calls};

impl KernelDevice for Traced {}
impl KernelBackend for Traced {}

/// Latents of the two backends may differ by rounding, and by no more than this.
const TOLERANCE: f32 = 1e-3;

/// The latents of a short distilled video.
fn latents(pipeline: &mut dyn DynPipeline) -> Result<Vec<f32>> {
    let adapter = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA)?;
    pipeline.load_lora(CFG_STEP_LORA, &adapter)?;
    pipeline.use_loras(&[(CFG_STEP_LORA, 1.0)])?;
    let request = TextToVideoRequest {
        sampling: Sampling {
            steps: 4,
            ..Sampling::distilled()
        },
        ..TextToVideoRequest::new("a red circle moves right")
    };
    let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
    Ok(made.values().to_vec())
}

fn main() -> Result<()> {
    let root = builtin_checkpoint()?;
    let options = PipelineOptions::default();
    let ours = latents(&mut Pipeline::<Traced>::open(&root, options, &FlexDevice)?)?;
    let calls = calls();
    // Flex is compiled already, in the crate of the backends that are chosen at run time.
    let options = RuntimeOptions::default();
    let theirs = latents(&mut *open_pipeline(
        &DeviceSpec::Cpu.into(),
        &root,
        &options,
    )?)?;

    let differences = || ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    let largest = differences().fold(0.0, f32::max);
    println!(
        "{} latent values; Traced and Flex differ by at most {largest:e}",
        ours.len()
    );

    let total: u64 = calls.values().sum();
    let matmuls = calls.get("float_matmul").copied().unwrap_or(0);
    println!("Traced got {total} calls, {matmuls} of them float_matmul; the most frequent:");
    let mut calls: Vec<_> = calls.into_iter().collect();
    calls.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    for (name, count) in calls.iter().take(8) {
        println!("{count:>8}  {name}");
    }

    // Written so that a NaN counts as a difference.
    if ours.len() != theirs.len() || !differences().all(|d| d <= TOLERANCE) {
        bail!("the latents differ by more than {TOLERANCE:e}");
    }
    Ok(())
}
