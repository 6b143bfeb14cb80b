//! The same seed gives the same video on every backend.
#![cfg(all(feature = "cpu", feature = "wgpu"))]
#![allow(missing_docs, clippy::unwrap_used)]

use burn_flex::{Flex, FlexDevice};
use burn_wgpu::{Wgpu, WgpuDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_miniature::{RenderedClip, psnr};
use longcat_video::{
    KernelBackend, Pipeline, PipelineOptions, PixelFrames, Sampling, SeededNoise, Silent,
    TextToVideoRequest, VideoSize,
};

/// A video of the built-in model in 16 guided steps.
fn video<B: KernelBackend>(device: &B::Device) -> RenderedClip {
    let checkpoint = builtin_checkpoint().unwrap();
    let options = PipelineOptions::default();
    let mut pipeline = Pipeline::<B>::open(&checkpoint, options, device).unwrap();
    let request = TextToVideoRequest {
        prompts: vec!["a green star moves up on a black background".into()],
        negative_prompt: String::new(),
        size: VideoSize {
            width: 64,
            height: 64,
        },
        frames: 17,
        sampling: Sampling {
            steps: 16,
            ..Sampling::standard()
        },
    };
    let made = pipeline
        .text_to_video(&request, &mut SeededNoise::new(7), &mut Silent)
        .unwrap();
    let pixels = pipeline.decode(made.latents, &mut Silent).unwrap();
    let frames = PixelFrames::from_tensor(pixels).unwrap().swap_remove(0);
    RenderedClip::new(64, 64, frames.as_bytes().to_vec()).unwrap()
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
