//! How often a model trained on moving shapes does what it should, by plain image analysis.

mod pixels;
mod prompts;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use longcat_miniature::{JUDGED_PROMPTS, Raster, RenderedClip, Sample, Shape, Split};
use longcat_runtime::{DeviceSpec, DeviceTask, on_device};
use longcat_video::{
    CFG_STEP_LORA, EasyCache, KernelBackend, Observer, Pipeline, PipelineOptions, PixelFrames,
    Precision, Products, Sampling, VideoSize,
};
use serde_json::Value;

/// `miniature judge`.
#[derive(Debug, Args)]
pub struct Judge {
    /// What is judged.
    #[arg(value_enum, default_value_t = Task::Text)]
    task: Task,
    /// Checkpoint directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// How many prompts or clips.
    #[arg(long, default_value_t = JUDGED_PROMPTS)]
    count: usize,
    /// Videos made at once.
    #[arg(long, default_value_t = 25)]
    batch: usize,
    /// Denoising steps: 50, or 16 with --distill.
    #[arg(long)]
    steps: Option<usize>,
    /// Guidance scale: 4, or 1 with --distill.
    #[arg(long)]
    guidance: Option<f64>,
    /// The distilled schedule with its adapter.
    #[arg(long)]
    distill: bool,
    /// The distilled schedule without its adapter.
    #[arg(long)]
    distill_without_lora: bool,
    /// Leave out passes of the transformer, as `longcat --cache` does.
    #[arg(long, value_name = "easy[=THRESHOLD]")]
    cache: Option<EasyCache>,
    /// Keep matrices in fp8 and multiply them in these numbers.
    #[arg(long, value_enum)]
    fp8: Option<Multiplied>,
    /// Combinations that the model was not trained on.
    #[arg(long)]
    held_out: bool,
    /// Prompts about hearts.
    #[arg(long)]
    heart: bool,
    /// An adapter to use.
    #[arg(long, value_name = "FILE")]
    lora: Option<PathBuf>,
    /// Seed of the noise; video i takes the seed plus i.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceSpec,
    /// Keep the videos in this folder.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// In which numbers fp8 matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Multiplied {
    /// Those of the model.
    Dense,
    /// fp8, to which activations are rounded with a scale for each token.
    Fp8,
}

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Videos from prompts: colour, shape, motion.
    Text,
    /// Videos of few steps beside those of all steps with guidance, from the same noise.
    Teacher,
    /// Videos from first frames and prompts.
    Image,
    /// Whether continued videos go on without a jump.
    Continue,
    /// Whether long videos keep colour and shape.
    Long,
    /// What the VAE loses.
    Vae,
    /// Refined videos beside the true ones.
    Refine,
}

impl Judge {
    /// Makes the videos and prints the rates.
    pub fn run(self) -> Result<()> {
        ensure!(
            self.count > 0 && self.batch > 0,
            "--count and --batch must be positive"
        );
        if let Some(folder) = &self.save {
            std::fs::create_dir_all(folder)?;
        }
        let json = self.json;
        let report = on_device(self.device, self)??;
        if json {
            println!("{report}");
        } else {
            println!("{report:#}");
        }
        Ok(())
    }

    fn distilled(&self) -> bool {
        self.distill || self.distill_without_lora
    }

    fn sampling(&self) -> Sampling {
        let base = match self.distilled() {
            true => Sampling::distilled(),
            false => Sampling::standard(),
        };
        Sampling {
            steps: self.steps.unwrap_or(base.steps),
            guidance: self.guidance.unwrap_or(base.guidance),
            cache: self.cache,
            ..base
        }
    }

    /// The fixed prompts of the split.
    fn prompts(&self) -> Vec<Sample> {
        let split = match self.held_out {
            true => Split::HeldOut,
            false => Split::Train,
        };
        let shapes = match self.heart {
            true => &[Shape::Heart],
            false => Shape::USUAL,
        };
        longcat_miniature::prompts(split, shapes, self.count)
    }

    fn keep(&self, index: usize, clip: &RenderedClip) -> Result<()> {
        if let Some(folder) = &self.save {
            let path = folder.join(format!("{index:03}.webp"));
            frames(clip)?.write_video(path, Raster::default().fps)?;
        }
        Ok(())
    }
}

impl DeviceTask for Judge {
    type Output = Result<Value>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<Value> {
        let (precision, products) = match self.fp8 {
            None => (Precision::Stored, Products::Dense),
            Some(Multiplied::Dense) => (Precision::Fp8, Products::Dense),
            Some(Multiplied::Fp8) => (Precision::Fp8, Products::Fp8),
        };
        let options = PipelineOptions {
            precision,
            products,
            keep_text_encoder: true,
            ..PipelineOptions::default()
        };
        let mut pipeline = Pipeline::<B>::open(&self.model, options, &device)?;
        let mut chosen = Vec::new();
        if self.distill {
            let path = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA)?;
            pipeline.load_lora(CFG_STEP_LORA, &path)?;
            chosen.push((CFG_STEP_LORA, 1.0));
        }
        if let Some(path) = &self.lora {
            pipeline.load_lora("lora", path)?;
            chosen.push(("lora", 1.0));
        }
        pipeline.use_loras(&chosen)?;
        match self.task {
            Task::Text => prompts::text(&self, &mut pipeline),
            Task::Teacher => prompts::teacher(&self, &mut pipeline),
            Task::Image => prompts::image(&self, &mut pipeline),
            Task::Continue => prompts::continuation(&self, &mut pipeline),
            Task::Long => prompts::long(&self, &mut pipeline),
            Task::Vae => pixels::vae(&self, &mut pipeline),
            Task::Refine => pixels::refine(&self, &mut pipeline),
        }
    }
}

/// Passes of the transformer that were left out, of how many.
#[derive(Default)]
struct Passes {
    saved: usize,
    all: usize,
}

impl Observer for Passes {
    fn passes_saved(&mut self, saved: usize, total: usize) {
        self.saved += saved;
        self.all += total;
    }
}

/// The clips of a batch of pixels as the judge takes them.
fn clip(frames: &PixelFrames) -> Result<RenderedClip> {
    let size = frames.size();
    Ok(RenderedClip::new(
        size.width,
        size.height,
        frames.as_bytes().to_vec(),
    )?)
}

fn frames(clip: &RenderedClip) -> Result<PixelFrames> {
    let size = VideoSize::new(clip.width(), clip.height());
    Ok(PixelFrames::from_bytes(clip.data().to_vec(), size)?)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
