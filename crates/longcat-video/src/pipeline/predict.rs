//! The transformer's prediction, with guidance, on one device or several.

use burn::tensor::{DType, Tensor};
use longcat_dit::{
    KvCache, LongCatTransformer, ParallelTransformer, TeamedTransformer, TextCondition,
};
use longcat_kernels::{KernelBackend, transfer};

use crate::VideoError;
use crate::adapters::TimedLora;

/// The transformer on its devices: a replica on each.
pub(crate) struct Model<'a, B: KernelBackend> {
    pub replicas: &'a [LongCatTransformer<B>],
    pub devices: &'a [B::Device],
    /// Adapters that act in some steps only.
    pub timed: &'a [TimedLora],
}

/// How several devices share a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Division {
    /// There is one device.
    None,
    /// Half of the devices take the pass with the negative prompt, the others that with the prompt.
    Passes,
    /// Each takes a share of the frames, and in self-attention of the heads.
    Frames,
}

/// What a prediction is made from, besides latents and timestep.
pub(crate) struct Conditions<'a, B: KernelBackend> {
    /// Prompts; under guidance the negative prompts come first.
    pub text: &'a TextCondition<B>,
    /// Whether there is a pass with the negative prompts.
    pub guided: bool,
    /// Leading latents that are clean conditions (none with a cache: they are in it).
    pub num_cond: usize,
    /// Of [`Model::cache_condition`], if conditions are cached.
    pub caches: &'a [KvCache<B>],
}

/// Passes of a step that have devices of their own, all as many: those with the negative prompt and with the prompt
/// where that can be.
pub(crate) fn passes_apart(devices: usize, guided: bool) -> usize {
    1 + usize::from(guided && devices.is_multiple_of(2))
}

impl<B: KernelBackend> Model<'_, B> {
    fn division(&self, guided: bool) -> Division {
        match (self.devices.len(), passes_apart(self.devices.len(), guided)) {
            (1, _) => Division::None,
            (_, 1) => Division::Frames,
            _ => Division::Passes,
        }
    }

    /// The devices by passes.
    fn teams(&self) -> Result<TeamedTransformer<'_, B>, VideoError> {
        Ok(TeamedTransformer::new(self.replicas, self.devices, 2)?)
    }

    /// What the transformer says of latents `[B, C, T, H, W]`; under guidance `[2 B, ..]`, that of
    /// the negative prompts first.
    pub(crate) fn predict(
        &self,
        latents: &Tensor<B, 5>,
        timestep: f32,
        conditions: &Conditions<'_, B>,
    ) -> Result<Tensor<B, 5>, VideoError> {
        let Conditions { text, caches, .. } = *conditions;
        // With a cache, the conditions are not among the latents.
        let num_cond = if caches.is_empty() {
            conditions.num_cond
        } else {
            0
        };
        let latents = match conditions.guided {
            true => Tensor::cat(vec![latents.clone(), latents.clone()], 0),
            false => latents.clone(),
        };
        let timesteps = timesteps(&latents, num_cond, timestep);
        Ok(match self.division(conditions.guided) {
            Division::None => match caches.first() {
                Some(cache) => self.replicas[0].forward_cached(latents, timesteps, text, cache)?,
                None => self.replicas[0].forward(latents, timesteps, text, num_cond)?,
            },
            Division::Passes => {
                let teams = self.teams()?;
                match caches.is_empty() {
                    true => teams.forward(latents, timesteps, text, num_cond)?,
                    false => teams.forward_cached(latents, timesteps, text, caches)?,
                }
            }
            Division::Frames => {
                let parallel = ParallelTransformer::new(self.replicas, self.devices)?;
                match caches.is_empty() {
                    true => parallel.forward(latents, timesteps, text, num_cond)?,
                    false => parallel.forward_cached(latents, timesteps, text, caches)?,
                }
            }
        })
    }

    /// One of the passes of [`Self::predict`] under guidance, `[B, C, T, H, W]`: 0 is that of the
    /// negative prompts, 1 that of the prompts.
    pub(crate) fn predict_pass(
        &self,
        latents: &Tensor<B, 5>,
        timestep: f32,
        conditions: &Conditions<'_, B>,
        pass: usize,
    ) -> Result<Tensor<B, 5>, VideoError> {
        let batch = latents.dims()[0];
        let samples = pass * batch..(pass + 1) * batch;
        let text = conditions.text.samples(samples.clone());
        let one = |model: &Model<'_, B>,
                   latents: &Tensor<B, 5>,
                   text: &TextCondition<B>,
                   caches: &[KvCache<B>]| {
            let conditions = Conditions {
                text,
                guided: false,
                num_cond: conditions.num_cond,
                caches,
            };
            model.predict(latents, timestep, &conditions)
        };
        let cached = !conditions.caches.is_empty();
        let few = latents.dims()[2] < self.devices.len();
        // Otherwise all devices share the frames.
        if self.division(true) == Division::Passes && (cached || few) {
            // On its own devices, which have the keys and values of this pass.
            let team = self.devices.len() / 2;
            let own = pass * team..(pass + 1) * team;
            let model = Model {
                replicas: &self.replicas[own.clone()],
                devices: &self.devices[own.clone()],
                timed: &[],
            };
            let device = &self.devices[own.start];
            let caches = conditions.caches.get(own).unwrap_or_default();
            let latents = transfer(latents.clone(), device);
            let made = one(&model, &latents, &text.on(device), caches)?;
            return Ok(transfer(made, &self.devices[0]));
        }
        let caches = conditions.caches.iter();
        let caches: Vec<KvCache<B>> = caches.map(|c| c.samples(samples.clone())).collect();
        one(self, latents, &text, &caches)
    }

    /// Keys and values of clean condition latents `[B, C, n, H, W]`, for each device.
    pub(crate) fn cache_condition(
        &self,
        latents: Tensor<B, 5>,
        guided: bool,
        offload: bool,
    ) -> Result<Vec<KvCache<B>>, VideoError> {
        // One prompt needs one copy of the condition, whatever the guidance.
        let passes = match latents.dims()[0] {
            1 => latents.clone(),
            _ if guided => Tensor::cat(vec![latents.clone(), latents.clone()], 0),
            _ => latents.clone(),
        };
        match self.division(guided) {
            Division::None => Ok(vec![self.replicas[0].cache_condition(passes, offload)?]),
            Division::Passes => Ok(self.teams()?.cache_condition(&latents, offload)?),
            Division::Frames => {
                let parallel = ParallelTransformer::new(self.replicas, self.devices)?;
                Ok(parallel.cache_condition(passes, offload)?)
            }
        }
    }
}

/// A timestep for every latent frame, `[B, T]`; 0 for clean conditions.
fn timesteps<B: KernelBackend>(
    latents: &Tensor<B, 5>,
    num_cond: usize,
    timestep: f32,
) -> Tensor<B, 2> {
    let [batch, _, frames, _, _] = latents.dims();
    let device = latents.device();
    let full = |frames: usize, value: f32| {
        Tensor::<B, 2>::full([batch, frames], value, (&device, DType::F32))
    };
    let noise = full(frames - num_cond, timestep);
    match num_cond {
        0 => noise,
        n => Tensor::cat(vec![full(n, 0.0), noise], 1),
    }
}
