//! The same seed gives the same video on every backend, in the types that it takes by default.
#![cfg(all(feature = "cpu", feature = "wgpu"))]
#![allow(missing_docs, clippy::unwrap_used)]

use burn::tensor::DType;
use burn::tensor::backend::Backend;
use burn_flex::{Flex, FlexDevice};
use burn_wgpu::{Wgpu, WgpuDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_miniature::{RenderedClip, psnr};
use longcat_video::{
    KernelBackend, Pipeline, PipelineOptions, Sampling, SeededNoise, Silent, TextToVideoRequest,
};

/// A short video of the built-in model in three guided steps.
fn video<B: KernelBackend>(dtype: DType, device: &B::Device) -> RenderedClip {
    let checkpoint = builtin_checkpoint().unwrap();
    let options = PipelineOptions {
        dtype,
        ..PipelineOptions::default()
    };
    let mut pipeline = Pipeline::<B>::open(&checkpoint, options, device).unwrap();
    let request = TextToVideoRequest {
        frames: Some(5),
        sampling: Sampling {
            steps: 3,
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
    let cpu = video::<Flex>(DType::F32, &FlexDevice);
    let device = WgpuDevice::default();
    for (dtype, least) in [(DType::F32, 40.0), (DType::F16, 35.0)] {
        if <Wgpu>::supports_dtype(&device, dtype) {
            let psnr = psnr(&cpu, &video::<Wgpu>(dtype, &device)).unwrap();
            assert!(psnr >= least, "{dtype:?}: {psnr:.1} dB");
        }
    }
}
