//! A picture becomes the first frame of a video:
//! `cargo run --release -p longcat-examples --example image_to_video -- cpu first.png`.

use std::error::Error;
use std::path::Path;

use longcat_builtin::builtin_checkpoint;
use longcat_examples::{device, write};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::media::read_image;
use longcat_video::{
    ImageToVideoRequest, KernelBackend, Pipeline, PipelineOptions, PixelFrames, Posterior,
    Sampling, SeededNoise, Silent, VideoSize,
};

struct Task(PixelFrames);

impl DeviceTask for Task {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        let root = builtin_checkpoint()?;
        let mut pipeline = Pipeline::<B>::open(&root, PipelineOptions::default(), &device)?;
        let size = VideoSize {
            width: 64,
            height: 64,
        };
        let request = ImageToVideoRequest {
            image: self.0.resized(size),
            prompts: vec!["a red circle moves right".into()],
            negative_prompt: String::new(),
            frames: 17,
            sampling: Sampling::standard(),
            posterior: Posterior::Sample,
        };
        let made = pipeline.image_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
        let pixels = pipeline.decode(made.latents, &mut Silent)?;
        write("from_image.mp4", &PixelFrames::from_tensor(pixels)?[0])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(2)
        .ok_or("name a device and a picture")?;
    let image = read_image(Path::new(&path))?;
    on_device(device()?, Task(PixelFrames::from_images(&[image])?))?
}
