//! A prompt to a video with the built-in model, on any compiled backend:
//! `cargo run --release -p longcat-examples --example text_to_video -- cpu`.

use std::error::Error;

use longcat_builtin::builtin_checkpoint;
use longcat_examples::{device, write};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::{
    KernelBackend, Pipeline, PipelineOptions, PixelFrames, Sampling, SeededNoise, Silent,
    TextToVideoRequest, VideoSize,
};

struct Task;

impl DeviceTask for Task {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        let root = builtin_checkpoint()?;
        let mut pipeline = Pipeline::<B>::open(&root, PipelineOptions::default(), &device)?;
        let request = TextToVideoRequest {
            prompts: vec!["a red circle moves right".into()],
            negative_prompt: String::new(),
            size: VideoSize {
                width: 64,
                height: 64,
            },
            frames: 17,
            sampling: Sampling::standard(),
        };
        let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
        let pixels = pipeline.decode(made.latents, &mut Silent)?;
        write("circle.mp4", &PixelFrames::from_tensor(pixels)?[0])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    on_device(device()?, Task)?
}
