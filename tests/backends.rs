//! The same seed gives the same video on every backend.
#![cfg(all(feature = "cpu", feature = "wgpu"))]
#![allow(missing_docs, clippy::unwrap_used)]

use burn_flex::{Flex, FlexDevice};
use burn_wgpu::{Wgpu, WgpuDevice};
use longcat_video::{
    KernelBackend, Pipeline, PipelineOptions, PixelFrames, Sampling, SeededNoise, Silent,
    TextToVideoRequest, VideoSize, builtin_checkpoint,
};

/// A video of the built-in model in 16 guided steps, as bytes.
fn video<B: KernelBackend>(device: &B::Device) -> Vec<u8> {
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
    frames.as_bytes().to_vec()
}

#[test]
fn cpu_and_wgpu_show_the_same_video() {
    let (cpu, wgpu) = (
        video::<Flex>(&FlexDevice),
        video::<Wgpu>(&WgpuDevice::default()),
    );
    assert_eq!(cpu.len(), wgpu.len());
    let squares = cpu.iter().zip(&wgpu);
    let squares = squares.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / cpu.len() as f64;
    let psnr = 10.0 * (255.0f64.powi(2) / mean).log10();
    assert!(psnr >= 40.0, "{psnr:.1} dB");
}
