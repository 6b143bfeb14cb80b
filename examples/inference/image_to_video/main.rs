//! A picture becomes the first frame of a video:
//! `cargo run --release -p longcat-examples --example image_to_video -- cpu first.png`.

use std::error::Error;

use longcat_builtin::builtin_checkpoint;
use longcat_examples::{device, write};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::{
    ImageToVideoRequest, KernelBackend, Pipeline, PipelineOptions, PixelFrames, SeededNoise, Silent,
};

struct Task(PixelFrames);

impl DeviceTask for Task {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        let root = builtin_checkpoint()?;
        let mut pipeline = Pipeline::<B>::open(&root, PipelineOptions::default(), &device)?;
        let request = ImageToVideoRequest::new(self.0, "a red circle moves right");
        let made = pipeline.image_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
        let videos = pipeline.decode(made.latents, &mut Silent)?;
        write("from_image.mp4", &videos[0])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(2)
        .ok_or("name a device and a picture")?;
    on_device(device()?, Task(PixelFrames::read_image(path)?))?
}
