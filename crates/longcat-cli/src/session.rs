//! A pipeline on a device, with where its results go.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use longcat_builtin::builtin_checkpoint;
use longcat_cli::device_or_best;
use longcat_runtime::{DeviceSpec, DynPipeline, RuntimeOptions, open_pipeline};
use longcat_video::{CFG_STEP_LORA, Latents, PixelFrames, Sampling, Tiling};

use crate::args::{Model, Output, OutputFile, Place, Sampler};
use crate::output::{Writer, latents_only};
use crate::stage_bar::StageBar;

/// A model on a device, with where its results go.
pub struct Session {
    pub pipeline: Box<dyn DynPipeline>,
    pub bar: StageBar,
    output: OutputFile,
    save_latents: Option<PathBuf>,
    started: Instant,
}

pub fn checkpoint_dir(model: Option<&Path>) -> Result<PathBuf> {
    match model {
        Some(dir) => Ok(dir.to_path_buf()),
        None => builtin_checkpoint().context("unpacking the built-in model"),
    }
}

impl Session {
    /// Opens the checkpoint and its adapters.
    pub fn open(model: &Model, distill: bool, output: &Output) -> Result<Self> {
        let save_latents = output.save_latents.clone();
        let mut session =
            Self::without_adapters(&model.place, model.low_memory, &output.file, save_latents)?;
        let pipeline = &mut session.pipeline;
        let mut chosen = Vec::new();
        if distill {
            let path = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA)?;
            pipeline.load_lora(CFG_STEP_LORA, &path)?;
            chosen.push((CFG_STEP_LORA.to_string(), 1.0));
        }
        for (i, lora) in model.loras.iter().enumerate() {
            let name = format!("lora-{i}");
            pipeline.load_lora(&name, &lora.path)?;
            chosen.push((name, lora.strength));
        }
        let chosen: Vec<(&str, f64)> = chosen.iter().map(|(n, s)| (n.as_str(), *s)).collect();
        pipeline.use_loras(&chosen)?;
        if model.merge {
            pipeline.merge_loras()?;
        }
        Ok(session)
    }

    /// Opens the checkpoint for a command that uses no adapters.
    pub fn without_adapters(
        place: &Place,
        low_memory: bool,
        output: &OutputFile,
        save_latents: Option<PathBuf>,
    ) -> Result<Self> {
        let devices = device_or_best(place.device.clone());
        longcat_runtime::set_cublas_enabled(!place.no_cublas);
        if matches!(devices.first(), DeviceSpec::Cuda(_)) {
            let problems = [
                longcat_runtime::cublas_problem(),
                longcat_runtime::cudnn_problem(),
            ];
            for problem in problems.into_iter().flatten() {
                eprintln!("warning: {problem}");
            }
        }
        let options = RuntimeOptions {
            dtype: place.dtype.map(Into::into),
            low_memory,
            tiling: place.vae_tiling.then(Tiling::default),
            ..RuntimeOptions::default()
        };
        let root = checkpoint_dir(place.model.as_deref())?;
        let pipeline = open_pipeline(&devices, &root, &options)?;
        let interrupt = longcat_cli::interrupt()?;
        Ok(Self {
            pipeline,
            bar: StageBar::new(interrupt, save_latents.clone()),
            output: output.clone(),
            save_latents,
            started: Instant::now(),
        })
    }

    /// Decodes latents, unless latents are all that is asked for, and writes the result.
    pub fn finish(&mut self, latents: &Latents, fps: f64) -> Result<()> {
        if latents_only(&self.output) {
            latents.write(&self.output.output)?;
            return self.writer(fps).report(None);
        }
        let frames = self.decode(latents)?;
        self.write(&frames, fps)
    }

    /// The video of latents.
    pub fn decode(&mut self, latents: &Latents) -> Result<PixelFrames> {
        let mut videos = self.pipeline.decode(latents, &mut self.bar)?;
        Ok(videos.swap_remove(0))
    }

    /// Writes frames and says so.
    pub fn write(&self, frames: &PixelFrames, fps: f64) -> Result<()> {
        let mut writer = self.writer(fps);
        writer.push(frames)?;
        writer.finish()
    }

    /// Writes the result, at `fps` if the command line says no other rate.
    pub fn writer(&self, fps: f64) -> Writer<'_> {
        self.bar.finish();
        let latents = self.save_latents.as_deref();
        Writer::new(&self.output, latents, fps, self.started)
    }
}

/// The sampling settings of a command line.
pub fn sampling(args: &Sampler) -> Sampling {
    let base = match args.distill {
        true => Sampling::distilled(),
        false => Sampling::standard(),
    };
    Sampling {
        steps: args.steps.unwrap_or(base.steps),
        guidance: args.guidance.unwrap_or(base.guidance),
        ..base
    }
}
