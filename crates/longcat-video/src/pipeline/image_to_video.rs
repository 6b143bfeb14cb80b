use burn::tensor::Tensor;
use longcat_kernels::KernelBackend;

use super::denoise::Denoise;
use super::predict::Conditions;
use super::request::latent_frames;
use super::{Generated, Observer, Pipeline, Posterior, Sampling};
use crate::VideoError;
use crate::frames::PixelFrames;
use crate::noise::{NoisePurpose, NoiseSource, noise_tensor};

/// What image-to-video needs.
#[derive(Debug, Clone)]
pub struct ImageToVideoRequest {
    /// The first frame, already at the size of the video.
    pub image: PixelFrames,
    /// One prompt per video of the batch.
    pub prompts: Vec<String>,
    /// What to keep away from; used with guidance above 1 only.
    pub negative_prompt: String,
    /// Frames per video, 4n + 1, the image included.
    pub frames: usize,
    /// Steps, guidance, schedule.
    pub sampling: Sampling,
    /// How the image's latent is taken from the VAE.
    pub posterior: Posterior,
}

impl<B: KernelBackend> Pipeline<B> {
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
        request.sampling.check()?;
        if request.image.len() != 1 {
            return Err(VideoError::invalid(
                "image",
                format!("one picture is needed, not {}", request.image.len()),
            ));
        }
        let [height, width] = self.latent_size(request.image.size())?;
        let frames = latent_frames("frames", request.frames, self.vae_config())?;
        if frames < 2 {
            return Err(VideoError::invalid(
                "frames",
                "the image is the first frame: at least 5 frames are needed",
            ));
        }
        let schedule = self
            .scheduler()
            .schedule(request.sampling.steps, request.sampling.mode())?;
        let text = self.encode_for(
            &request.prompts,
            &request.negative_prompt,
            &request.sampling,
            observer,
        )?;
        let batch = request.prompts.len();
        let clip = request.image.to_tensor(self.device());
        let cond = self.encode_condition(clip, batch, request.posterior, 0, noise, observer)?;
        let shape = [
            batch,
            self.transformer_config().in_channels,
            frames,
            height,
            width,
        ];
        let latents = noise_tensor(noise, NoisePurpose::Initial, shape, self.device());
        let latents = Tensor::cat(vec![cond, latents.narrow(2, 1, frames - 1)], 2);
        let latents = self.denoise(observer, |model, observer| {
            Denoise {
                model,
                guidance: text.guidance,
                schedule: &schedule,
                conditions: Conditions {
                    text: &text.condition,
                    guided: text.guidance.is_some(),
                    num_cond: 1,
                    caches: &[],
                },
            }
            .run(latents, observer)
        })?;
        Ok(Generated {
            latents,
            text: text.condition,
            schedule,
        })
    }
}
