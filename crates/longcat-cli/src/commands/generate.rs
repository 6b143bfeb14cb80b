//! `longcat t2v`, `i2v` and `continue`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use longcat_video::media::{ReadOptions, read_image, read_video};
use longcat_video::{
    ContinuationRequest, ImageToVideoRequest, Latents, PixelFrames, Posterior, REFINEMENT_LORA,
    RefineRequest, Sampling, SeededNoise, TextToVideoRequest, VideoSize,
};

use crate::args::{Condition, Continue, ImageToVideo, Output, Sampler, TextToVideo};
use crate::defaults::Defaults;
use crate::output::{check_output, latents_only};
use crate::session::{Session, sampling};

pub fn text_to_video(args: &TextToVideo) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let request = TextToVideoRequest {
        prompts: vec![args.prompt.clone()],
        negative_prompt: args.sampler.negative.clone(),
        size: args.size.unwrap_or(session.defaults.size),
        frames: args.frames.unwrap_or(session.defaults.frames),
        sampling: sampling(&args.sampler),
    };
    let mut noise = SeededNoise::new(args.sampler.seed);
    let latents = session
        .pipeline
        .text_to_video(&request, &mut noise, &mut session.bar)?;
    finish(session, &latents, &args.prompt, &args.sampler)
}

pub fn image_to_video(args: &ImageToVideo) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    let image = PixelFrames::from_images(&[read_image(&args.image)?])?;
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let size = match args.size {
        Some(size) => size,
        None => session.defaults.size_for(image.size())?,
    };
    let request = ImageToVideoRequest {
        image: image.resized(size),
        prompts: vec![args.prompt.clone()],
        negative_prompt: args.sampler.negative.clone(),
        frames: args.frames.unwrap_or(session.defaults.frames),
        sampling: sampling(&args.sampler),
        posterior: Posterior::Sample,
    };
    let mut noise = SeededNoise::new(args.sampler.seed);
    let latents = session
        .pipeline
        .image_to_video(&request, &mut noise, &mut session.bar)?;
    finish(session, &latents, &args.prompt, &args.sampler)
}

pub fn continue_video(args: &Continue) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    let video = read_frames(&args.video)?;
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let size = match args.size {
        Some(size) => size,
        None => session.defaults.size_for(video.size())?,
    };
    let request = continuation(
        video,
        size,
        vec![args.prompt.clone()],
        args.frames,
        &args.condition,
        &args.sampler,
        &session.defaults,
    );
    let mut noise = SeededNoise::new(args.sampler.seed);
    let latents = session
        .pipeline
        .continue_video(&request, &mut noise, &mut session.bar)?;
    finish(session, &latents, &args.prompt, &args.sampler)
}

/// A continuation request from the command line's settings.
pub fn continuation(
    video: PixelFrames,
    size: VideoSize,
    prompts: Vec<String>,
    frames: Option<usize>,
    condition: &Condition,
    sampler: &Sampler,
    defaults: &Defaults,
) -> ContinuationRequest {
    let cond_frames = condition.cond_frames.unwrap_or(defaults.cond_frames);
    ContinuationRequest {
        video: video.tail(cond_frames).resized(size),
        prompts,
        negative_prompt: sampler.negative.clone(),
        frames: frames.unwrap_or(defaults.frames),
        cond_frames,
        sampling: sampling(sampler),
        posterior: Posterior::Sample,
        kv_cache: !condition.no_kv_cache,
        offload_kv_cache: condition.offload_kv_cache,
        enhance_hf: !condition.no_enhance_hf && !sampler.distill,
    }
}

pub fn read_frames(path: &Path) -> Result<PixelFrames> {
    let video = read_video(path, &ReadOptions::default())?;
    Ok(PixelFrames::from_video(video)?)
}

/// Refining starts from pixels: it cannot follow a run that stops at latents.
fn check_refine(sampler: &Sampler, output: &Output) -> Result<()> {
    if sampler.refine && latents_only(&output.file) {
        bail!(
            "--refine needs a video output; use --save-latents for the latents of the first stage"
        );
    }
    Ok(())
}

/// Decodes, refines when asked to, and writes.
fn finish(mut session: Session, latents: &Latents, prompt: &str, sampler: &Sampler) -> Result<()> {
    let fps = session.defaults.fps;
    if !sampler.refine {
        return session.finish(latents, fps);
    }
    let video = session.decode(latents)?;
    let size = session.defaults.refined_size_for(video.size())?;
    let request = refine_request(video, prompt.to_string(), size);
    let mut noise = SeededNoise::new(sampler.seed);
    let frames = session
        .pipeline
        .refine(&request, &mut noise, &mut session.bar)
        .with_context(|| format!("refining with {REFINEMENT_LORA}"))?;
    session.write(&frames, 2.0 * fps)
}

/// The official settings of refining, spatial and temporal.
pub fn refine_request(video: PixelFrames, prompt: String, size: VideoSize) -> RefineRequest {
    RefineRequest {
        video,
        prompt,
        size,
        spatial_only: false,
        condition: None,
        steps: 50,
        threshold: 0.5,
        max_sequence_length: Sampling::standard().max_sequence_length,
        posterior: Posterior::Sample,
    }
}
