//! `longcat long`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longcat_video::{LongVideo, SeededNoise, TextToVideoRequest};

use super::generate::continuation;
use crate::args::Long;
use crate::output::{check_output, latents_only};
use crate::session::{Session, sampling};

pub fn run(args: &Long) -> Result<()> {
    check_output(&args.output)?;
    if latents_only(&args.output.file) {
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
    make(args, segments)
}

/// Beside the output, so that a stopped run is found again by the same command.
fn work_dir(args: &Long) -> PathBuf {
    args.work_dir.clone().unwrap_or_else(|| {
        let output = &args.output.file.output;
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".segments");
        output.with_file_name(name)
    })
}

fn make(args: &Long, segments: usize) -> Result<()> {
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let prompt = |i: usize| args.prompts[i.min(args.prompts.len() - 1)].clone();
    let defaults = *session.pipeline.checkpoint().defaults();
    let size = args.size.unwrap_or(defaults.size);
    let frames = args.frames.unwrap_or(defaults.frames);
    let first = TextToVideoRequest {
        negative_prompt: args.sampler.negative.clone(),
        size: Some(size),
        frames: Some(frames),
        sampling: sampling(&args.sampler),
        ..TextToVideoRequest::new(prompt(0))
    };
    let work = work_dir(args);
    let settings = format!(
        "{:?}",
        (
            &first,
            &args.condition,
            &args.prompts,
            args.sampler.seed,
            &args.model.loras,
            &args.model.place.dtype,
            &args.model.place.model,
            &args.sampler
        )
    );
    let long = LongVideo::open(&work, &settings)?;
    for index in 0..segments {
        if long.has(index) {
            eprintln!("segment {} of {segments} is there already", index + 1);
            continue;
        }
        eprintln!("segment {} of {segments}", index + 1);
        let mut noise = SeededNoise::new(args.sampler.seed.wrapping_add(index as u64));
        let pipeline = &mut session.pipeline;
        let latents = match index {
            0 => pipeline.text_to_video(&first, &mut noise, &mut session.bar)?,
            _ => {
                let request = continuation(
                    long.read(index - 1)?,
                    Some(size),
                    &prompt(index),
                    Some(frames),
                    &args.condition,
                    &args.sampler,
                );
                pipeline.continue_video(&request, &mut noise, &mut session.bar)?
            }
        };
        long.keep(index, &session.decode(&latents)?)?;
    }
    let skip = args.condition.cond_frames.unwrap_or(defaults.cond_frames);
    let mut writer = session.writer(defaults.fps);
    for index in 0..segments {
        // Each repeats the end of the one before.
        let repeated = if index == 0 { 0 } else { skip };
        writer.push(&long.read(index)?, repeated)?;
    }
    writer.finish()?;
    if args.work_dir.is_none() {
        remove(&work)?;
    }
    Ok(())
}

fn remove(work: &Path) -> Result<()> {
    fs::remove_dir_all(work).with_context(|| format!("removing {}", work.display()))
}
