//! A prompt to a video with the built-in model, on any compiled backend:
//! `cargo run --release -p longcat-examples --example text_to_video -- cpu`.

use std::error::Error;

use longcat_builtin::builtin_checkpoint;
use longcat_examples::{device, write};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::{
    KernelBackend, Pipeline, PipelineOptions, SeededNoise, Silent, TextToVideoRequest,
};

struct Task;

impl DeviceTask for Task {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        let root = builtin_checkpoint()?;
        let mut pipeline = Pipeline::<B>::open(&root, PipelineOptions::default(), &device)?;
        let request = TextToVideoRequest::new("a red circle moves right");
        let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
        let videos = pipeline.decode(made.latents, &mut Silent)?;
        write("circle.mp4", &videos[0])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    on_device(device()?, Task)?
}
