//! Videos from prompts.

use longcat_kernels::KernelBackend;

use super::base::Denoising;
use super::memory::Run;
use super::plan::{Planned, check_prompts};
use super::request::latent_frames;
use super::{Generated, Observer, Pipeline, Sampling, VideoPlan, VideoRequest};
use crate::noise::NoiseSource;
use crate::{VideoError, VideoSize};

/// What text-to-video needs.
///
/// ```
/// use longcat_video::{Sampling, TextToVideoRequest};
///
/// let request = TextToVideoRequest {
///     frames: Some(61),
///     sampling: Sampling::distilled(),
///     ..TextToVideoRequest::new("a red circle moves right")
/// };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TextToVideoRequest {
    /// One prompt per video of the batch.
    pub prompts: Vec<String>,
    /// What to keep away from; empty by default, used with guidance above 1 only.
    pub negative_prompt: String,
    /// Size in pixels, multiples of 16; the checkpoint's by default.
    pub size: Option<VideoSize>,
    /// Frames per video, 4n + 1; the checkpoint's by default.
    pub frames: Option<usize>,
    /// Steps, guidance, schedule; [`Sampling::standard`] by default.
    pub sampling: Sampling,
}

impl TextToVideoRequest {
    /// One video with the checkpoint's defaults.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompts: vec![prompt.into()],
            negative_prompt: String::new(),
            size: None,
            frames: None,
            sampling: Sampling::standard(),
        }
    }
}

impl<B: KernelBackend> Pipeline<B> {
    pub(crate) fn plan_text_to_video(
        &self,
        request: &TextToVideoRequest,
    ) -> Result<Planned, VideoError> {
        check_prompts(&request.prompts)?;
        request.sampling.check()?;
        let size = request.size.unwrap_or(self.defaults().size);
        let [height, width] = self.latent_size(size)?;
        let frames = request.frames.unwrap_or(self.defaults().frames);
        let latent_frames = latent_frames("frames", frames, self.vae_config())?;
        let (steps, mode) = (request.sampling.steps, request.sampling.mode());
        Ok(Planned {
            plan: VideoPlan {
                size,
                frames,
                cond_frames: 0,
                first_frame: 0,
            },
            latents: [latent_frames, height, width],
            num_cond: 0,
            schedule: self.scheduler().schedule(steps, mode)?,
        })
    }

    /// Makes videos from prompts.
    ///
    /// # Errors
    /// [`VideoError`]: a request that cannot work is refused before any model is loaded.
    pub fn text_to_video(
        &mut self,
        request: &TextToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Generated<B>, VideoError> {
        let planned = self.plan_text_to_video(request)?;
        self.memory_plan(VideoRequest::TextToVideo(request))?;
        let text = self.encode_for(
            &request.prompts,
            &request.negative_prompt,
            &request.sampling,
            observer,
        )?;
        let videos = request.prompts.len();
        let latents = self.initial_noise(videos, planned.latents, noise);
        let run = Run::new(videos, &request.sampling, false);
        self.make_room_for_denoising(&planned, &run, false)?;
        let run = Denoising {
            text,
            schedule: planned.schedule,
            latents,
            num_cond: 0,
            clean: None,
            cache: request.sampling.cache,
        };
        self.denoise(run, observer)
    }
}
