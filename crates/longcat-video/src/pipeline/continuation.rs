use burn::tensor::Tensor;
use longcat_kernels::KernelBackend;

use super::denoise::Denoise;
use super::predict::Conditions;
use super::request::latent_frames;
use super::{Generated, Observer, Pipeline, Posterior, Sampling};
use crate::VideoError;
use crate::frames::PixelFrames;
use crate::noise::{NoisePurpose, NoiseSource, noise_tensor};
use crate::scheduler::ScheduleMode;

/// What continuing a video needs.
#[derive(Debug, Clone)]
pub struct ContinuationRequest {
    /// The video to continue, already at the size of the result; its last frames count.
    pub video: PixelFrames,
    /// One prompt per video of the batch.
    pub prompts: Vec<String>,
    /// What to keep away from; used with guidance above 1 only.
    pub negative_prompt: String,
    /// Frames of the result, 4n + 1, condition frames included.
    pub frames: usize,
    /// How many frames of the video condition the result, 4n + 1; 13 in the release.
    pub cond_frames: usize,
    /// Steps, guidance, schedule.
    pub sampling: Sampling,
    /// How the condition's latents are taken from the VAE.
    pub posterior: Posterior,
    /// Compute keys and values of the condition once instead of in every step.
    pub kv_cache: bool,
    /// Keep the cache in host memory.
    pub offload_kv_cache: bool,
    /// The finer schedule for small timesteps; not with the distilled one.
    pub enhance_hf: bool,
}

impl<B: KernelBackend> Pipeline<B> {
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
        request.sampling.check()?;
        let given = request.video.len();
        if request.cond_frames == 0 || given < request.cond_frames {
            return Err(VideoError::invalid(
                "condition frames",
                format!(
                    "{} are asked for and the video has {given}; at least 1 and at most {given}",
                    request.cond_frames
                ),
            ));
        }
        let mode = match (request.enhance_hf, request.sampling.distill) {
            (true, true) => {
                return Err(VideoError::invalid(
                    "enhance-hf",
                    "the distilled schedule has no finer tail; switch one of the two off",
                ));
            }
            (true, false) => ScheduleMode::EnhanceHighFrequencies,
            (false, _) => request.sampling.mode(),
        };
        let [height, width] = self.latent_size(request.video.size())?;
        let frames = latent_frames("frames", request.frames, self.vae_config())?;
        let num_cond = latent_frames("condition frames", request.cond_frames, self.vae_config())?;
        if num_cond >= frames {
            return Err(VideoError::invalid(
                "frames",
                format!(
                    "{} frames leave nothing to make after {} condition frames",
                    request.frames, request.cond_frames
                ),
            ));
        }
        let schedule = self.scheduler().schedule(request.sampling.steps, mode)?;
        let text = self.encode_for(
            &request.prompts,
            &request.negative_prompt,
            &request.sampling,
            observer,
        )?;
        let batch = request.prompts.len();
        let clip = request
            .video
            .tail(request.cond_frames)
            .to_tensor(self.device());
        let cond = self.encode_condition(clip, batch, request.posterior, 0, noise, observer)?;
        let shape = [
            batch,
            self.transformer_config().in_channels,
            frames,
            height,
            width,
        ];
        let fresh = noise_tensor(noise, NoisePurpose::Initial, shape, self.device()).narrow(
            2,
            num_cond,
            frames - num_cond,
        );
        let latents = self.denoise(observer, |model, observer| {
            let run = Denoise {
                model,
                guidance: text.guidance,
                schedule: &schedule,
                conditions: Conditions {
                    text: &text.condition,
                    guided: text.guidance.is_some(),
                    num_cond,
                    caches: &[],
                },
            };
            if !request.kv_cache {
                return run.run(Tensor::cat(vec![cond, fresh], 2), observer);
            }
            let guided = text.guidance.is_some();
            let offload = request.offload_kv_cache;
            let caches = model.cache_condition(cond.clone(), guided, offload)?;
            let made = Denoise {
                conditions: Conditions {
                    num_cond: 0,
                    caches: &caches,
                    ..run.conditions
                },
                ..run
            }
            .run(fresh, observer)?;
            Ok(Tensor::cat(vec![cond, made], 2))
        })?;
        Ok(Generated {
            latents,
            text: text.condition,
            schedule,
        })
    }
}
