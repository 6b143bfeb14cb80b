use burn::tensor::{DType, Tensor};
use longcat_dit::{KvCache, LongCatTransformer, TextCondition};
use longcat_kernels::KernelBackend;

use crate::VideoError;
use crate::guidance::cfg_zero;
use crate::pipeline::{Observer, StepEvent};
use crate::scheduler::Schedule;

/// One denoising run.
pub(crate) struct Denoise<'a, B: KernelBackend> {
    pub transformer: &'a LongCatTransformer<B>,
    /// Prompts; under guidance the negative prompts come first.
    pub text: &'a TextCondition<B>,
    /// Guidance scale, where guidance is on.
    pub guidance: Option<f64>,
    pub schedule: &'a Schedule,
    /// Leading latents that are clean conditions (none with a cache: they are in it).
    pub num_cond: usize,
    pub cache: Option<&'a KvCache<B>>,
}

impl<B: KernelBackend> Denoise<'_, B> {
    /// Latents `[B, C, T, H, W]` in fp32 to clean latents; condition frames stay as they are.
    pub(crate) fn run(
        &self,
        mut latents: Tensor<B, 5>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B, 5>, VideoError> {
        for step in 0..self.schedule.len() {
            if observer.cancelled() {
                return Err(VideoError::Cancelled);
            }
            let timestep = self.schedule.timesteps[step];
            let input = match self.guidance {
                Some(_) => Tensor::cat(vec![latents.clone(), latents.clone()], 0),
                None => latents.clone(),
            };
            let raw = self.predict(input, timestep)?;
            let prediction = match self.guidance {
                Some(scale) => {
                    let batch = latents.dims()[0];
                    let uncond = raw.clone().narrow(0, 0, batch);
                    cfg_zero(raw.clone().narrow(0, batch, batch), uncond, scale)
                }
                None => raw.clone(),
            };
            // The model predicts x0 − noise, Euler steps go along noise − x0.
            let velocity = prediction.neg();
            let next = self.advance(latents.clone(), velocity, step);
            observer.step(&StepEvent {
                step,
                total: self.schedule.len(),
                timestep,
                input: &latents,
                prediction: &raw,
                latents: &next,
            });
            latents = next;
        }
        Ok(latents)
    }

    fn predict(&self, latents: Tensor<B, 5>, timestep: f32) -> Result<Tensor<B, 5>, VideoError> {
        let [batch, _, frames, _, _] = latents.dims();
        let device = latents.device();
        let full = |frames: usize, value: f32| {
            Tensor::<B, 2>::full([batch, frames], value, (&device, DType::F32))
        };
        Ok(match self.cache {
            Some(cache) => self.transformer.forward_cached(
                latents,
                full(frames, timestep),
                self.text,
                cache,
            )?,
            None => {
                let noise = full(frames - self.num_cond, timestep);
                let timesteps = match self.num_cond {
                    0 => noise,
                    n => Tensor::cat(vec![full(n, 0.0), noise], 1),
                };
                self.transformer
                    .forward(latents, timesteps, self.text, self.num_cond)?
            }
        })
    }

    fn advance(&self, latents: Tensor<B, 5>, velocity: Tensor<B, 5>, step: usize) -> Tensor<B, 5> {
        let n = self.num_cond;
        if n == 0 {
            return self.schedule.step(latents, velocity, step);
        }
        let noise = latents.dims()[2] - n;
        let moved = self.schedule.step(
            latents.clone().narrow(2, n, noise),
            velocity.narrow(2, n, noise),
            step,
        );
        Tensor::cat(vec![latents.narrow(2, 0, n), moved], 2)
    }
}
