//! Continuing a video.

use burn::tensor::Tensor;
use longcat_kernels::KernelBackend;
use longcat_vae::LatentDraw;

use super::base::Denoising;
use super::denoise::CleanFrames;
use super::memory::Run;
use super::plan::{Planned, check_prompts};
use super::request::latent_frames;
use super::{Generated, Observer, Pipeline, Sampling, VideoPlan, VideoRequest};
use crate::frames::PixelFrames;
use crate::noise::NoiseSource;
use crate::scheduler::ScheduleMode;
use crate::{VideoError, VideoSize};

/// What continuing a video needs.
#[derive(Debug, Clone)]
pub struct ContinuationRequest {
    /// The video to continue, whose last frames count; they are brought to the size of the result.
    pub video: PixelFrames,
    /// Size in pixels, multiples of 16; by default the one of the checkpoint that is nearest in shape
    /// to the video.
    pub size: Option<VideoSize>,
    /// One prompt per video of the batch.
    pub prompts: Vec<String>,
    /// What to keep away from; used with guidance above 1 only.
    pub negative_prompt: String,
    /// Frames of the result, 4n + 1, condition frames included; the checkpoint's by default.
    pub frames: Option<usize>,
    /// How many frames of the video condition the result, 4n + 1; by default the checkpoint's number
    /// (13 in the release), or what a shorter video allows.
    pub cond_frames: Option<usize>,
    /// Steps, guidance, schedule; [`Sampling::standard`] by default.
    pub sampling: Sampling,
    /// How the condition's latents are taken from the VAE.
    pub latent_draw: LatentDraw,
    /// Compute keys and values of the condition once instead of in every step.
    pub kv_cache: bool,
    /// Keep the cache in host memory.
    pub offload_kv_cache: bool,
    /// The finer schedule for small timesteps, which the distilled one does not have; by default
    /// wherever there is one.
    pub enhance_hf: Option<bool>,
}

impl ContinuationRequest {
    /// One video with the checkpoint's defaults.
    pub fn new(video: PixelFrames, prompt: impl Into<String>) -> Self {
        Self {
            video,
            size: None,
            prompts: vec![prompt.into()],
            negative_prompt: String::new(),
            frames: None,
            cond_frames: None,
            sampling: Sampling::standard(),
            latent_draw: LatentDraw::Sample,
            kv_cache: true,
            offload_kv_cache: false,
            enhance_hf: None,
        }
    }
}

impl<B: KernelBackend> Pipeline<B> {
    /// The checkpoint's number of condition frames, or the most that a shorter video has.
    pub(crate) fn cond_frames_of(&self, given: usize) -> usize {
        let group = self.vae_config().scale_factor_temporal;
        whole_groups(given.min(self.defaults().cond_frames), group)
    }

    /// Latent frames of a video and of the condition frames that it begins with.
    pub(crate) fn condition_latents(
        &self,
        frames: usize,
        cond_frames: usize,
    ) -> Result<[usize; 2], VideoError> {
        let total = latent_frames("frames", frames, self.vae_config())?;
        let num_cond = latent_frames("condition frames", cond_frames, self.vae_config())?;
        if num_cond >= total {
            return Err(VideoError::invalid(
                "frames",
                format!(
                    "{frames} frames leave nothing to make after {cond_frames} condition frames"
                ),
            ));
        }
        Ok([total, num_cond])
    }

    /// What continuing a video of this size and number of frames comes to; the frames of the request
    /// itself are not looked at.
    pub(crate) fn plan_continuation(
        &self,
        request: &ContinuationRequest,
        (given_size, given): (VideoSize, usize),
    ) -> Result<Planned, VideoError> {
        check_prompts(&request.prompts)?;
        request.sampling.check()?;
        let cond_frames = request
            .cond_frames
            .unwrap_or_else(|| self.cond_frames_of(given));
        if cond_frames == 0 || given < cond_frames {
            return Err(VideoError::invalid(
                "condition frames",
                format!(
                    "{cond_frames} are asked for and the video has {given}; at least 1 and at most \
                     {given}"
                ),
            ));
        }
        let mode = continuation_mode(&request.sampling, request.enhance_hf)?;
        let size = self.size_for(request.size, given_size)?;
        let [height, width] = self.latent_size(size)?;
        let frames = request.frames.unwrap_or(self.defaults().frames);
        let [latent_frames, num_cond] = self.condition_latents(frames, cond_frames)?;
        Ok(Planned {
            plan: VideoPlan {
                size,
                frames,
                cond_frames,
                first_frame: 0,
            },
            latents: [latent_frames, height, width],
            num_cond,
            schedule: self.scheduler().schedule(request.sampling.steps, mode)?,
        })
    }

    /// Continues a video. The result begins with the condition frames.
    ///
    /// # Errors
    /// [`VideoError`]: a request that cannot work is refused before any model is loaded.
    pub fn continue_video(
        &mut self,
        request: &ContinuationRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Generated<B>, VideoError> {
        let shape = (request.video.size(), request.video.len());
        let planned = self.plan_continuation(request, shape)?;
        self.memory_plan(VideoRequest::Continuation(request))?;
        let VideoPlan {
            size, cond_frames, ..
        } = planned.plan;
        let (num_cond, frames) = (planned.num_cond, planned.latents[0]);
        let text = self.encode_for(
            &request.prompts,
            &request.negative_prompt,
            &request.sampling,
            observer,
        )?;
        let batch = request.prompts.len();
        let clip = request
            .video
            .tail(cond_frames)
            .resized(size)
            .to_tensor(self.device());
        let cond = self.encode_condition(clip, batch, request.latent_draw, 0, noise, observer)?;
        let fresh = self.initial_noise(batch, planned.latents, noise);
        let fresh = fresh.narrow(2, num_cond, frames - num_cond);
        let run = Run::new(batch, &request.sampling, request.kv_cache);
        let memory = self.make_room_for_denoising(&planned, &run, request.offload_kv_cache)?;
        let (latents, num_cond, clean) = if request.kv_cache {
            let clean = CleanFrames {
                latents: cond,
                offload: memory.offload_kv_cache,
            };
            (fresh, 0, Some(clean))
        } else {
            (Tensor::cat(vec![cond, fresh], 2), num_cond, None)
        };
        let run = Denoising {
            text,
            schedule: planned.schedule,
            latents,
            num_cond,
            clean,
            cache: request.sampling.cache,
        };
        self.denoise(run, observer)
    }
}

/// The schedule of a continuation.
pub(crate) fn continuation_mode(
    sampling: &Sampling,
    enhance_hf: Option<bool>,
) -> Result<ScheduleMode, VideoError> {
    match (enhance_hf, sampling.distill) {
        (Some(true), true) => Err(VideoError::invalid(
            "enhance-hf",
            "the distilled schedule has no finer tail; switch one of the two off",
        )),
        (Some(true) | None, false) => Ok(ScheduleMode::EnhanceHighFrequencies),
        (_, _) => Ok(sampling.mode()),
    }
}

/// The largest number of at most `frames` that is 1 more than a multiple of `group`.
fn whole_groups(frames: usize, group: usize) -> usize {
    frames.saturating_sub(1) / group * group + 1
}

#[cfg(test)]
mod tests {
    use super::whole_groups;

    #[test]
    fn a_short_video_conditions_with_what_it_has() {
        let frames = [1, 4, 5, 12, 13, 16].map(|frames| whole_groups(frames, 4));
        assert_eq!(frames, [1, 1, 5, 9, 13, 13]);
    }
}
