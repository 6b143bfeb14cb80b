//! Several adapters on one loaded model, switched between videos without a reload:
//! `cargo run --release -p longcat-examples --example switch_loras -- cpu`.

use std::error::Error;

use longcat_builtin::builtin_checkpoint;
use longcat_examples::{device, write};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::{
    CFG_STEP_LORA, KernelBackend, Pipeline, PipelineOptions, REFINEMENT_LORA, Sampling,
    SeededNoise, Silent, TextToVideoRequest,
};

struct Task;

impl DeviceTask for Task {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        let root = builtin_checkpoint()?;
        let mut pipeline = Pipeline::<B>::open(&root, PipelineOptions::default(), &device)?;
        for name in [CFG_STEP_LORA, REFINEMENT_LORA] {
            let path = pipeline.checkpoint().bundled_lora(name)?;
            pipeline.load_lora(name, &path)?;
        }
        let request = TextToVideoRequest {
            sampling: Sampling::distilled(),
            ..TextToVideoRequest::new("a blue star rotates")
        };
        let choices: [(&str, &[(&str, f64)]); 3] = [
            ("plain.mp4", &[]),
            ("distilled.mp4", &[(CFG_STEP_LORA, 1.0)]),
            ("both.mp4", &[(CFG_STEP_LORA, 1.0), (REFINEMENT_LORA, 0.3)]),
        ];
        for (path, chosen) in choices {
            pipeline.use_loras(chosen)?;
            let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
            let videos = pipeline.decode(made.latents, &mut Silent)?;
            write(path, &videos[0])?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    on_device(device()?, Task)?
}
