//! The same seed gives the same video on every backend.
#![cfg(all(feature = "cpu", feature = "wgpu"))]
#![allow(missing_docs, clippy::unwrap_used)]

use burn_flex::{Flex, FlexDevice};
use burn_wgpu::{Wgpu, WgpuDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_miniature::{RenderedClip, psnr};
use longcat_video::{
    KernelBackend, Pipeline, PipelineOptions, Sampling, SeededNoise, Silent, TextToVideoRequest,
};

/// A video of the built-in model in 16 guided steps.
fn video<B: KernelBackend>(device: &B::Device) -> RenderedClip {
    let checkpoint = builtin_checkpoint().unwrap();
    let options = PipelineOptions::default();
    let mut pipeline = Pipeline::<B>::open(&checkpoint, options, device).unwrap();
    let request = TextToVideoRequest {
        sampling: Sampling {
            steps: 16,
            ..Sampling::standard()
        },
        ..TextToVideoRequest::new("a green star moves up on a black background")
    };
    let made = pipeline
        .text_to_video(&request, &mut SeededNoise::new(7), &mut Silent)
        .unwrap();
    let frames = pipeline.decode(made.latents, &mut Silent).unwrap();
    RenderedClip::new(64, 64, frames[0].as_bytes().to_vec()).unwrap()
}

#[test]
fn cpu_and_wgpu_show_the_same_video() {
    let (cpu, wgpu) = (
        video::<Flex>(&FlexDevice),
        video::<Wgpu>(&WgpuDevice::default()),
    );
    let psnr = psnr(&cpu, &wgpu).unwrap();
    assert!(psnr >= 40.0, "{psnr:.1} dB");
}
