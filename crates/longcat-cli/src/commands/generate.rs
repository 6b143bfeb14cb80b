use std::path::Path;

use anyhow::{Context, Result, bail};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::{
    ContinuationRequest, ImageToVideoRequest, KernelBackend, Pipeline, PixelFrames,
    REFINEMENT_LORA, RefineRequest, SeededNoise, TextToVideoRequest, VideoSize,
};

use crate::args::{Condition, Continue, ImageToVideo, Output, Sampler, TextToVideo};
use crate::session::{Session, check_output, latents_only, sampling};

/// A command with the pictures it starts from, read before any model.
struct WithPixels<A>(A, PixelFrames);

pub fn text_to_video(args: TextToVideo) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    on_device(args.model.device.first(), args)?
}

impl DeviceTask for TextToVideo {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let mut session =
            Session::<B>::open(&self.model, self.sampler.distill, &self.output, &device)?;
        let request = TextToVideoRequest {
            negative_prompt: self.sampler.negative.clone(),
            size: self.size,
            frames: self.frames,
            sampling: sampling(&self.sampler),
            ..TextToVideoRequest::new(&self.prompt)
        };
        let mut noise = SeededNoise::new(self.sampler.seed);
        let made = session
            .pipeline
            .text_to_video(&request, &mut noise, &mut session.progress)?;
        finish(session, made.latents, &self.prompt, &self.sampler)
    }
}

pub fn image_to_video(args: ImageToVideo) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    let image = PixelFrames::read_image(&args.image)?;
    on_device(args.model.device.first(), WithPixels(args, image))?
}

impl DeviceTask for WithPixels<ImageToVideo> {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let Self(args, image) = self;
        let mut session =
            Session::<B>::open(&args.model, args.sampler.distill, &args.output, &device)?;
        let request = ImageToVideoRequest {
            size: args.size,
            negative_prompt: args.sampler.negative.clone(),
            frames: args.frames,
            sampling: sampling(&args.sampler),
            ..ImageToVideoRequest::new(image, &args.prompt)
        };
        let mut noise = SeededNoise::new(args.sampler.seed);
        let made = session
            .pipeline
            .image_to_video(&request, &mut noise, &mut session.progress)?;
        finish(session, made.latents, &args.prompt, &args.sampler)
    }
}

pub fn continue_video(args: Continue) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    let video = read_frames(&args.video)?;
    on_device(args.model.device.first(), WithPixels(args, video))?
}

impl DeviceTask for WithPixels<Continue> {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let Self(args, video) = self;
        let mut session =
            Session::<B>::open(&args.model, args.sampler.distill, &args.output, &device)?;
        let request = continuation(
            video,
            args.size,
            &args.prompt,
            args.frames,
            &args.condition,
            &args.sampler,
        );
        let mut noise = SeededNoise::new(args.sampler.seed);
        let made = session
            .pipeline
            .continue_video(&request, &mut noise, &mut session.progress)?;
        finish(session, made.latents, &args.prompt, &args.sampler)
    }
}

/// A continuation request from the command line's settings.
pub fn continuation(
    video: PixelFrames,
    size: Option<VideoSize>,
    prompt: &str,
    frames: Option<usize>,
    condition: &Condition,
    sampler: &Sampler,
) -> ContinuationRequest {
    ContinuationRequest {
        size,
        negative_prompt: sampler.negative.clone(),
        frames,
        cond_frames: condition.cond_frames,
        sampling: sampling(sampler),
        kv_cache: !condition.no_kv_cache,
        offload_kv_cache: condition.offload_kv_cache,
        enhance_hf: condition.no_enhance_hf.then_some(false),
        ..ContinuationRequest::new(video, prompt)
    }
}

pub fn read_frames(path: &Path) -> Result<PixelFrames> {
    Ok(PixelFrames::read_video(path)?)
}

/// Refining starts from pixels: it cannot follow a run that stops at latents.
fn check_refine(sampler: &Sampler, output: &Output) -> Result<()> {
    if sampler.refine && latents_only(output) {
        bail!(
            "--refine needs a video output; use --save-latents for the latents of the first stage"
        );
    }
    Ok(())
}

/// Decodes, refines when asked to, and writes.
fn finish<B: KernelBackend>(
    mut session: Session<B>,
    latents: burn::tensor::Tensor<B, 5>,
    prompt: &str,
    sampler: &Sampler,
) -> Result<()> {
    let fps = session.pipeline.defaults().fps;
    if !sampler.refine {
        return session.finish(latents, fps);
    }
    let video = session
        .pipeline
        .decode(latents, &mut session.progress)?
        .swap_remove(0);
    let request = RefineRequest::new(video, prompt);
    let mut noise = SeededNoise::new(sampler.seed);
    let progress = &mut session.progress;
    let frames = session
        .pipeline
        .with_refinement(|pipeline: &mut Pipeline<B>| {
            let refined = pipeline.refine(&request, &mut noise, progress)?;
            pipeline.decode_refined(&refined, progress)
        });
    let frames = frames.with_context(|| format!("refining with {REFINEMENT_LORA}"))?;
    session.write(&frames, 2.0 * fps)
}
