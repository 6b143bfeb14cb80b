//! `longcat t2v`, `i2v` and `continue`.

use anyhow::{Context, Result, bail};
use longcat_video::{
    ContinuationRequest, ImageToVideoRequest, Latents, PixelFrames, REFINEMENT_LORA, RefineRequest,
    SeededNoise, TextToVideoRequest,
};

use crate::args::{Continue, ImageToVideo, Output, Sampler, TextToVideo};
use crate::output::{check_output, latents_only};
use crate::session::{Session, sampling};

pub fn text_to_video(args: &TextToVideo) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let request = TextToVideoRequest {
        negative_prompt: args.sampler.negative.clone(),
        size: args.size,
        frames: args.frames,
        sampling: sampling(&args.sampler),
        ..TextToVideoRequest::new(&args.prompt)
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
    let image = PixelFrames::read_image(&args.image)?;
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let request = ImageToVideoRequest {
        size: args.size,
        negative_prompt: args.sampler.negative.clone(),
        frames: args.frames,
        sampling: sampling(&args.sampler),
        ..ImageToVideoRequest::new(image, &args.prompt)
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
    let video = PixelFrames::read_video(&args.video)?;
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let condition = &args.condition;
    let request = ContinuationRequest {
        size: args.size,
        negative_prompt: args.sampler.negative.clone(),
        frames: args.frames,
        cond_frames: condition.cond_frames,
        sampling: sampling(&args.sampler),
        kv_cache: !condition.no_kv_cache,
        offload_kv_cache: condition.offload_kv_cache,
        enhance_hf: condition.no_enhance_hf.then_some(false),
        ..ContinuationRequest::new(video, &args.prompt)
    };
    let mut noise = SeededNoise::new(args.sampler.seed);
    let latents = session
        .pipeline
        .continue_video(&request, &mut noise, &mut session.bar)?;
    finish(session, &latents, &args.prompt, &args.sampler)
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
    let fps = session.pipeline.checkpoint().defaults().fps;
    if !sampler.refine {
        return session.finish(latents, fps);
    }
    let video = session.decode(latents)?;
    let request = RefineRequest::new(video, prompt);
    let mut noise = SeededNoise::new(sampler.seed);
    let frames = session
        .pipeline
        .refine(&request, &mut noise, &mut session.bar)
        .with_context(|| format!("refining with {REFINEMENT_LORA}"))?;
    session.write(&frames, 2.0 * fps)
}
