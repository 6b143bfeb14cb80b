use std::path::Path;

use anyhow::{Context, Result, bail};
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::media::{ReadOptions, read_image, read_video};
use longcat_video::{
    ContinuationRequest, ImageToVideoRequest, KernelBackend, Pipeline, PixelFrames, Posterior,
    REFINEMENT_LORA, RefineRequest, Resolution, Sampling, SeededNoise, TextToVideoRequest,
    VideoSize, bucket,
};

use crate::args::{Condition, Continue, ImageToVideo, Model, Output, Sampler, TextToVideo};
use crate::session::{Defaults, Session, check_output, latents_only, sampling};

/// The size a picture is brought to: the one asked for, or the bucket nearest in shape. The built-in
/// model has one size.
pub fn picture_size(
    asked: Option<VideoSize>,
    given: VideoSize,
    built_in: bool,
    defaults: &Defaults,
) -> Result<VideoSize> {
    Ok(match (asked, built_in) {
        (Some(size), _) => size,
        (None, true) => defaults.size,
        (None, false) => bucket(Resolution::P480, given, 16)?,
    })
}

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
            prompts: vec![self.prompt.clone()],
            negative_prompt: self.sampler.negative.clone(),
            size: self.size.unwrap_or(session.defaults.size),
            frames: self.frames.unwrap_or(session.defaults.frames),
            sampling: sampling(&self.sampler),
        };
        let mut noise = SeededNoise::new(self.sampler.seed);
        let made = session
            .pipeline
            .text_to_video(&request, &mut noise, &mut session.progress)?;
        finish(
            session,
            made.latents,
            &self.prompt,
            &self.sampler,
            &self.model,
        )
    }
}

pub fn image_to_video(args: ImageToVideo) -> Result<()> {
    check_output(&args.output)?;
    check_refine(&args.sampler, &args.output)?;
    let image = PixelFrames::from_images(&[read_image(&args.image)?])?;
    on_device(args.model.device.first(), WithPixels(args, image))?
}

impl DeviceTask for WithPixels<ImageToVideo> {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let Self(args, image) = self;
        let mut session =
            Session::<B>::open(&args.model, args.sampler.distill, &args.output, &device)?;
        let built_in = args.model.model.is_none();
        let size = picture_size(args.size, image.size(), built_in, &session.defaults)?;
        let request = ImageToVideoRequest {
            image: image.resized(size),
            prompts: vec![args.prompt.clone()],
            negative_prompt: args.sampler.negative.clone(),
            frames: args.frames.unwrap_or(session.defaults.frames),
            sampling: sampling(&args.sampler),
            posterior: Posterior::Sample,
        };
        let mut noise = SeededNoise::new(args.sampler.seed);
        let made = session
            .pipeline
            .image_to_video(&request, &mut noise, &mut session.progress)?;
        finish(
            session,
            made.latents,
            &args.prompt,
            &args.sampler,
            &args.model,
        )
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
        let built_in = args.model.model.is_none();
        let size = picture_size(args.size, video.size(), built_in, &session.defaults)?;
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
        let made = session
            .pipeline
            .continue_video(&request, &mut noise, &mut session.progress)?;
        finish(
            session,
            made.latents,
            &args.prompt,
            &args.sampler,
            &args.model,
        )
    }
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
    model: &Model,
) -> Result<()> {
    let fps = session.defaults.fps;
    if !sampler.refine {
        return session.finish(latents, fps);
    }
    let pixels = session.pipeline.decode(latents, &mut session.progress)?;
    let video = PixelFrames::from_tensor(pixels)?.swap_remove(0);
    let size = refined_size(None, video.size(), model.model.is_none())?;
    let request = refine_request(video, prompt.to_string(), size);
    let mut noise = SeededNoise::new(sampler.seed);
    let progress = &mut session.progress;
    let frames = session
        .pipeline
        .with_refinement(|pipeline: &mut Pipeline<B>| {
            let refined = pipeline.refine(&request, &mut noise, progress)?;
            let pixels = pipeline.decode_refined(&refined, progress)?;
            PixelFrames::from_tensor(pixels)
        });
    let frames = frames
        .with_context(|| format!("refining with {REFINEMENT_LORA}"))?
        .swap_remove(0);
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

/// The refined size: the one asked for, twice that of the built-in model, or the 720p bucket.
pub fn refined_size(
    asked: Option<VideoSize>,
    given: VideoSize,
    built_in: bool,
) -> Result<VideoSize> {
    Ok(match (asked, built_in) {
        (Some(size), _) => size,
        (None, true) => VideoSize {
            width: 2 * given.width,
            height: 2 * given.height,
        },
        (None, false) => bucket(Resolution::P720, given, 64)?,
    })
}
