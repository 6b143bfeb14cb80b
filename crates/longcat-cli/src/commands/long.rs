use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::{KernelBackend, LongVideo, SeededNoise, TextToVideoRequest};

use super::generate::continuation;
use crate::args::Long;
use crate::session::{Session, check_output, latents_only, sampling};

pub fn run(args: Long) -> Result<()> {
    check_output(&args.output)?;
    if latents_only(&args.output) {
        bail!("a long video cannot be written as latents; name a video file");
    }
    if args.sampler.refine {
        bail!("--refine: refine the finished long video with `longcat refine`");
    }
    let segments = args.segments.unwrap_or(args.prompts.len());
    if segments == 0 || (args.prompts.len() > 1 && args.prompts.len() != segments) {
        bail!(
            "{} prompts for {segments} segments: give one prompt, or one per segment",
            args.prompts.len()
        );
    }
    on_device(args.model.device.first(), args)?
}

/// Beside the output, so that a stopped run is found again by the same command.
fn work_dir(args: &Long) -> PathBuf {
    args.work_dir.clone().unwrap_or_else(|| {
        let mut name = args
            .output
            .output
            .file_name()
            .unwrap_or_default()
            .to_os_string();
        name.push(".segments");
        args.output.output.with_file_name(name)
    })
}

impl DeviceTask for Long {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let mut session =
            Session::<B>::open(&self.model, self.sampler.distill, &self.output, &device)?;
        let defaults = *session.pipeline.defaults();
        let segments = self.segments.unwrap_or(self.prompts.len());
        let prompt = |i: usize| self.prompts[i.min(self.prompts.len() - 1)].clone();
        let size = self.size.unwrap_or(defaults.size);
        let frames = self.frames.unwrap_or(defaults.frames);
        let first = TextToVideoRequest {
            negative_prompt: self.sampler.negative.clone(),
            size: Some(size),
            frames: Some(frames),
            sampling: sampling(&self.sampler),
            ..TextToVideoRequest::new(prompt(0))
        };
        let work = work_dir(&self);
        let settings = format!(
            "{:?}",
            (
                &first,
                &self.condition,
                &self.prompts,
                self.sampler.seed,
                &self.model.loras,
                &self.model.dtype,
                &self.model.model,
                &self.sampler
            )
        );
        let long = LongVideo::open(&work, &settings)?;
        for index in 0..segments {
            if long.has(index) {
                eprintln!("segment {} of {segments} is there already", index + 1);
                continue;
            }
            eprintln!("segment {} of {segments}", index + 1);
            let mut noise = SeededNoise::new(self.sampler.seed.wrapping_add(index as u64));
            let pipeline = &mut session.pipeline;
            let made = match index {
                0 => pipeline.text_to_video(&first, &mut noise, &mut session.progress)?,
                _ => {
                    let request = continuation(
                        long.read(index - 1)?,
                        Some(size),
                        &prompt(index),
                        Some(frames),
                        &self.condition,
                        &self.sampler,
                    );
                    pipeline.continue_video(&request, &mut noise, &mut session.progress)?
                }
            };
            let clips = pipeline.decode(made.latents, &mut session.progress)?;
            long.keep(index, &clips[0])?;
        }
        let skip = self.condition.cond_frames.unwrap_or(defaults.cond_frames);
        let fps = defaults.fps;
        session.write_segments(&long, segments, skip, fps)?;
        if self.work_dir.is_none() {
            remove(&work)?;
        }
        Ok(())
    }
}

fn remove(work: &Path) -> Result<()> {
    fs::remove_dir_all(work).with_context(|| format!("removing {}", work.display()))
}
