use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Tensor};
use longcat_builtin::builtin_checkpoint;
use longcat_runtime::DeviceSpec;
use longcat_video::media::{OutputFormat, VideoSpec, VideoWriter, WriteOptions, create_video};
use longcat_video::{
    CFG_STEP_LORA, KernelBackend, Latents, LongVideo, Pipeline, PipelineOptions, PixelFrames,
    Sampling, Tiling, VideoSize,
};
use serde::Serialize;

use crate::args::{Dtype, Model, Output, Sampler};
use crate::progress::Progress;

/// A model on a device, with where its results go.
pub struct Session<B: KernelBackend> {
    pub pipeline: Pipeline<B>,
    pub progress: Progress,
    output: Output,
    started: Instant,
}

/// The files of a run are known to be writable and of a known kind before any model is read.
pub fn check_output(output: &Output) -> Result<()> {
    if !latents_only(output) {
        OutputFormat::from_path(&output.output)?;
    }
    for path in [Some(&output.output), output.save_latents.as_ref()]
        .into_iter()
        .flatten()
    {
        check_writable(path, output.overwrite)?;
    }
    Ok(())
}

pub fn check_writable(path: &Path, overwrite: bool) -> Result<()> {
    if path.exists() && !overwrite {
        bail!(
            "{} exists; name another file or add --overwrite (-y)",
            path.display()
        );
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        bail!("{} is not a folder; make it first", parent.display());
    }
    Ok(())
}

pub fn checkpoint_dir(model: Option<&Path>) -> Result<PathBuf> {
    match model {
        Some(dir) => Ok(dir.to_path_buf()),
        None => Ok(builtin_checkpoint().context("unpacking the built-in model")?),
    }
}

impl<B: KernelBackend> Session<B> {
    /// Opens the checkpoint and its adapters.
    pub fn open(model: &Model, distill: bool, output: &Output, device: &B::Device) -> Result<Self> {
        let dtype = match model.dtype {
            Some(Dtype::F32) => DType::F32,
            Some(Dtype::F16) => DType::F16,
            Some(Dtype::Bf16) => DType::BF16,
            None => model.device.first().default_dtype(),
        };
        if !B::supports_dtype(device, dtype) {
            bail!(
                "{} cannot compute in {dtype:?}; `longcat devices` lists what it can",
                model.device
            );
        }
        longcat_runtime::set_cublas_enabled(!model.no_cublas);
        if matches!(model.device.first(), DeviceSpec::Cuda(_)) {
            let problems = [
                longcat_runtime::cublas_problem(),
                longcat_runtime::cudnn_problem(),
            ];
            for problem in problems.into_iter().flatten() {
                eprintln!("warning: {problem}");
            }
        }
        let options = PipelineOptions {
            dtype,
            // bf16 as the reference has it, where that is fast; f16 is too narrow for the VAE.
            vae_dtype: match (dtype, model.device.first()) {
                (DType::BF16, DeviceSpec::Cuda(_)) => DType::BF16,
                _ => DType::F32,
            },
            keep_text_encoder: false,
            keep_transformer: !model.low_memory,
            tiling: model.vae_tiling.then(Tiling::default),
        };
        let root = checkpoint_dir(model.model.as_deref())?;
        let mut pipeline = Pipeline::open(&root, options, device)?;
        pipeline.denoise_on(&model.device.others::<B>(device)?)?;
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
        let interrupt = longcat_cli::interrupt()?;
        Ok(Self {
            pipeline,
            progress: Progress::new(interrupt, output.save_latents.clone()),
            output: output.clone(),
            started: Instant::now(),
        })
    }

    /// Decodes latents, unless latents are all that is asked for, and writes the result.
    pub fn finish(&mut self, latents: Tensor<B, 5>, fps: f64) -> Result<()> {
        if latents_only(&self.output) {
            Latents::from_tensor(latents)?.write(&self.output.output)?;
            return self.report(None, fps);
        }
        let frames = self
            .pipeline
            .decode(latents, &mut self.progress)?
            .swap_remove(0);
        self.write(&frames, fps)
    }

    /// Writes frames and says so.
    pub fn write(&mut self, frames: &PixelFrames, fps: f64) -> Result<()> {
        let fps = self.output.fps.unwrap_or(fps);
        let mut writer = self.writer(frames.size(), fps)?;
        for frame in frames.frames() {
            writer.push(frame)?;
        }
        writer.finish()?;
        self.report(Some((frames.size(), frames.len())), fps)
    }

    /// Writes the segments of a long video one after another, without the `skip` frames in which
    /// each repeats the end of the one before.
    pub fn write_segments(
        &mut self,
        long: &LongVideo,
        segments: usize,
        skip: usize,
        fps: f64,
    ) -> Result<()> {
        let fps = self.output.fps.unwrap_or(fps);
        let first = long.read(0)?;
        let size = first.size();
        let mut writer = self.writer(size, fps)?;
        let mut total = 0;
        for index in 0..segments {
            let clip = long.read(index)?;
            for frame in clip.frames().skip(if index == 0 { 0 } else { skip }) {
                writer.push(frame)?;
                total += 1;
            }
        }
        writer.finish()?;
        self.report(Some((size, total)), fps)
    }

    fn writer(&self, size: VideoSize, fps: f64) -> Result<Box<dyn VideoWriter>> {
        let spec = VideoSpec {
            width: u32::try_from(size.width)?,
            height: u32::try_from(size.height)?,
            fps,
        };
        let options = WriteOptions {
            quality: self.output.quality,
        };
        Ok(create_video(&self.output.output, spec, &options)?)
    }

    fn report(&self, video: Option<(VideoSize, usize)>, fps: f64) -> Result<()> {
        self.progress.finish();
        let result = Written {
            output: &self.output.output,
            latents: self.output.save_latents.as_deref(),
            width: video.map(|(size, _)| size.width),
            height: video.map(|(size, _)| size.height),
            frames: video.map(|(_, frames)| frames),
            fps: video.map(|_| fps),
            seconds: self.started.elapsed().as_secs_f64(),
        };
        if self.output.json {
            println!("{}", serde_json::to_string_pretty(&result)?);
        } else {
            let what = match (result.frames, result.width, result.height) {
                (Some(n), Some(w), Some(h)) => {
                    // Some files keep durations in milliseconds.
                    let fps = (fps * 100.0).round() / 100.0;
                    format!("{n} frames of {w}x{h} at {fps} fps")
                }
                _ => "latents".into(),
            };
            println!(
                "{}: {what}, {:.1} s",
                self.output.output.display(),
                result.seconds
            );
        }
        Ok(())
    }
}

/// Whether the run ends at latents.
pub fn latents_only(output: &Output) -> bool {
    output
        .output
        .extension()
        .is_some_and(|e| e == "safetensors")
}

#[derive(Serialize)]
struct Written<'a> {
    output: &'a Path,
    latents: Option<&'a Path>,
    width: Option<usize>,
    height: Option<usize>,
    frames: Option<usize>,
    fps: Option<f64>,
    seconds: f64,
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
