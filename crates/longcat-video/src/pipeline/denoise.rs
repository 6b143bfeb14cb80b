//! The denoising loop.

use burn::tensor::{ElementConversion, Tensor};
use longcat_dit::KvCache;
use longcat_kernels::{KernelBackend, Stage, attempt, guard};

use super::predict::{Conditions, Model};
use super::step_cache::{EasyCache, Passes, StepCache};
use super::switching::Switching;
use crate::VideoError;
use crate::guidance::cfg_zero;
use crate::latents::Latents;
use crate::pipeline::StepEvent;
use crate::pipeline::observer::Follower;
use crate::scheduler::Schedule;

/// One denoising run.
pub(crate) struct Denoise<'a, B: KernelBackend> {
    pub model: &'a Model<'a, B>,
    /// Guidance scale, where guidance is on.
    pub guidance: Option<f64>,
    pub schedule: &'a Schedule,
    pub conditions: Conditions<'a, B>,
    /// Clean frames in front, which are not among the latents: their keys and values are kept.
    pub clean: Option<CleanFrames<B>>,
    /// When passes are left out, if they may be.
    pub cache: Option<EasyCache>,
}

/// Condition frames whose keys and values are computed once for the same adapters.
pub(crate) struct CleanFrames<B: KernelBackend> {
    /// `[B, C, n, H, W]`.
    pub latents: Tensor<B, 5>,
    /// Keep keys and values in host memory.
    pub offload: bool,
}

/// What a step gives.
struct Taken<B: KernelBackend> {
    /// The transformer's prediction; under guidance that for the negative prompts comes first.
    raw: Tensor<B, 5>,
    /// Latents after the step.
    next: Tensor<B, 5>,
}

impl<B: KernelBackend> Denoise<'_, B> {
    /// Latents `[B, C, T, H, W]` in fp32 to clean latents; condition frames stay as they are.
    ///
    /// # Errors
    /// [`VideoError::NotFinite`] when the first or the last step overflows; [`VideoError::Device`]; of
    /// the transformer.
    pub(crate) fn run(
        &self,
        mut latents: Tensor<B, 5>,
        follower: &mut Follower<'_, B>,
    ) -> Result<Tensor<B, 5>, VideoError> {
        let steps = self.schedule.len();
        let Conditions {
            guided, num_cond, ..
        } = self.conditions;
        let mut cache = self
            .cache
            .map(|rule| StepCache::new(&rule, steps, guided, num_cond));
        let mut switching = Switching::new(self.model, steps)?;
        let mut caches = Vec::new();
        for step in 0..steps {
            if follower.observer.cancelled() {
                return Err(VideoError::Cancelled);
            }
            if switching.turn_to(step)? {
                // What other adapters made is of no use.
                cache.iter_mut().for_each(StepCache::forget);
                caches.clear();
                caches.extend(self.keys_and_values(&switching.model())?);
            }
            let model = switching.model();
            let conditions = Conditions {
                text: self.conditions.text,
                guided,
                num_cond,
                caches: &caches,
            };
            let stage = Stage::Denoising {
                step: step + 1,
                total: steps,
            };
            // The first, to fail early; not every one, since the device has to catch up for this.
            let checked = step == 0 || step + 1 == steps;
            let work = || self.take(&model, &conditions, &latents, step, cache.as_mut());
            let Taken { raw, next } = match checked {
                true => guard::<B, _, VideoError>(self.model.devices, stage, work)?,
                false => attempt::<B, _, VideoError>(self.model.devices, stage, work)?,
            };
            follower.step(&StepEvent {
                step,
                total: steps,
                timestep: self.schedule.timesteps[step],
                input: &latents,
                prediction: &raw,
                latents: &next,
            });
            if follower.observer.wants_previews() {
                let foreseen = guard::<B, _, VideoError>(self.model.devices, stage, || {
                    self.foreseen(&latents, &next, step)
                })?;
                follower.observer.preview(step, steps, &foreseen);
            }
            latents = next;
            if checked {
                self.check_finite(&latents, step)?;
            }
        }
        if let Some(cache) = cache {
            let total = steps * cache.passes();
            follower.observer.passes_saved(cache.saved(), total);
        }
        Ok(latents)
    }

    /// Keys and values of the clean frames, for each device; none without such frames.
    fn keys_and_values(&self, model: &Model<'_, B>) -> Result<Vec<KvCache<B>>, VideoError> {
        let Some(CleanFrames { latents, offload }) = &self.clean else {
            return Ok(Vec::new());
        };
        let guided = self.conditions.guided;
        let make = || model.cache_condition(latents.clone(), guided, *offload);
        guard::<B, _, _>(model.devices, Stage::CachingCondition, make)
    }

    /// Takes one step.
    fn take(
        &self,
        model: &Model<'_, B>,
        conditions: &Conditions<'_, B>,
        latents: &Tensor<B, 5>,
        step: usize,
        cache: Option<&mut StepCache<B>>,
    ) -> Result<Taken<B>, VideoError> {
        let timestep = self.schedule.timesteps[step];
        let compute = |passes| match passes {
            Passes::All => model.predict(latents, timestep, conditions),
            Passes::One(pass) => model.predict_pass(latents, timestep, conditions, pass),
        };
        let raw = match cache {
            Some(cache) => cache.predict(step, latents, compute)?,
            None => compute(Passes::All)?,
        };
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
        Ok(Taken { raw, next })
    }

    /// The clean latents to which step `step` points. Computed on the host, so that what the device computes
    /// stays the same.
    fn foreseen(
        &self,
        before: &Tensor<B, 5>,
        after: &Tensor<B, 5>,
        step: usize,
    ) -> Result<Latents, VideoError> {
        let before = Latents::from_tensor(before.clone())?;
        let after = Latents::from_tensor(after.clone())?;
        let [from, to] = [step, step + 1].map(|at| self.schedule.sigmas[at]);
        // Steps are straight: the way from one noise level to the next leads on to 0.
        let reach = from / (from - to);
        let pairs = before.values().iter().zip(after.values());
        let values = pairs.map(|(before, after)| before + (after - before) * reach);
        Ok(Latents::new(values.collect(), after.dims()))
    }

    fn check_finite(&self, latents: &Tensor<B, 5>, step: usize) -> Result<(), VideoError> {
        // Compared here, not on the device: shader compilers may take it that all numbers are finite.
        let sum: f32 = latents.clone().sum().into_scalar().elem();
        match sum.is_finite() {
            true => Ok(()),
            false => Err(VideoError::NotFinite {
                step: step + 1,
                total: self.schedule.len(),
            }),
        }
    }

    fn advance(&self, latents: Tensor<B, 5>, velocity: Tensor<B, 5>, step: usize) -> Tensor<B, 5> {
        let n = self.conditions.num_cond;
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
