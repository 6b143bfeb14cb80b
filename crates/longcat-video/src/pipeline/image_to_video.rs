//! Videos that begin with an image.

use burn::tensor::Tensor;
use longcat_kernels::KernelBackend;
use longcat_vae::LatentDraw;

use super::base::Denoising;
use super::memory::Run;
use super::plan::{Planned, check_prompts};
use super::request::latent_frames;
use super::{Generated, Observer, Pipeline, Sampling, VideoPlan, VideoRequest};
use crate::frames::PixelFrames;
use crate::noise::NoiseSource;
use crate::{VideoError, VideoSize};

/// What image-to-video needs.
#[derive(Debug, Clone)]
pub struct ImageToVideoRequest {
    /// The first frame, which is brought to the size of the video.
    pub image: PixelFrames,
    /// Size in pixels, multiples of 16; by default the one of the checkpoint that is nearest in shape
    /// to the image.
    pub size: Option<VideoSize>,
    /// One prompt per video of the batch.
    pub prompts: Vec<String>,
    /// What to keep away from; used with guidance above 1 only.
    pub negative_prompt: String,
    /// Frames per video, 4n + 1, the image included; the checkpoint's by default.
    pub frames: Option<usize>,
    /// Steps, guidance, schedule; [`Sampling::standard`] by default.
    pub sampling: Sampling,
    /// How the image's latent is taken from the VAE.
    pub latent_draw: LatentDraw,
}

impl ImageToVideoRequest {
    /// One video with the checkpoint's defaults.
    pub fn new(image: PixelFrames, prompt: impl Into<String>) -> Self {
        Self {
            image,
            size: None,
            prompts: vec![prompt.into()],
            negative_prompt: String::new(),
            frames: None,
            sampling: Sampling::standard(),
            latent_draw: LatentDraw::Sample,
        }
    }
}

impl<B: KernelBackend> Pipeline<B> {
    pub(crate) fn plan_image_to_video(
        &self,
        request: &ImageToVideoRequest,
    ) -> Result<Planned, VideoError> {
        check_prompts(&request.prompts)?;
        request.sampling.check()?;
        if request.image.len() != 1 {
            return Err(VideoError::invalid(
                "image",
                format!("one picture is needed, not {}", request.image.len()),
            ));
        }
        let size = self.size_for(request.size, request.image.size())?;
        let [height, width] = self.latent_size(size)?;
        let frames = request.frames.unwrap_or(self.defaults().frames);
        let latent_frames = latent_frames("frames", frames, self.vae_config())?;
        if latent_frames < 2 {
            return Err(VideoError::invalid(
                "frames",
                "the image is the first frame: at least 5 frames are needed",
            ));
        }
        let (steps, mode) = (request.sampling.steps, request.sampling.mode());
        Ok(Planned {
            plan: VideoPlan {
                size,
                frames,
                cond_frames: 1,
                first_frame: 0,
            },
            latents: [latent_frames, height, width],
            num_cond: 1,
            schedule: self.scheduler().schedule(steps, mode)?,
        })
    }

    /// Makes videos that begin with an image.
    ///
    /// # Errors
    /// [`VideoError`]: a request that cannot work is refused before any model is loaded.
    pub fn image_to_video(
        &mut self,
        request: &ImageToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Generated<B>, VideoError> {
        let planned = self.plan_image_to_video(request)?;
        self.memory_plan(VideoRequest::ImageToVideo(request))?;
        let (size, frames) = (planned.plan.size, planned.latents[0]);
        let text = self.encode_for(
            &request.prompts,
            &request.negative_prompt,
            &request.sampling,
            observer,
        )?;
        let batch = request.prompts.len();
        let clip = request.image.resized(size).to_tensor(self.device());
        let cond = self.encode_condition(clip, batch, request.latent_draw, 0, noise, observer)?;
        let latents = self.initial_noise(batch, planned.latents, noise);
        let latents = Tensor::cat(vec![cond, latents.narrow(2, 1, frames - 1)], 2);
        let run = Run::new(batch, &request.sampling, false);
        self.make_room_for_denoising(&planned, &run, false)?;
        let run = Denoising {
            text,
            schedule: planned.schedule,
            latents,
            num_cond: 1,
            clean: None,
            cache: request.sampling.cache,
        };
        self.denoise(run, observer)
    }
}
