//! The transformer's prediction, with guidance, on one device or several.

use burn::tensor::{DType, Tensor};
use longcat_dit::{KvCache, LongCatTransformer, ParallelTransformer, TextCondition};
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
    fn passes_apart(&self, guided: bool) -> usize {
        passes_apart(self.devices.len(), guided)
    }

    /// All devices. Each takes a share of the frames of its passes, and in self-attention of the heads.
    fn shared(&self, guided: bool) -> Result<ParallelTransformer<'_, B>, VideoError> {
        let teams = self.passes_apart(guided);
        Ok(ParallelTransformer::in_teams(
            self.replicas,
            self.devices,
            teams,
        )?)
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
        if let [replica] = self.replicas {
            return Ok(match caches.first() {
                Some(cache) => replica.forward_cached(latents, timesteps, text, cache)?,
                None => replica.forward(latents, timesteps, text, num_cond)?,
            });
        }
        let shared = self.shared(conditions.guided)?;
        Ok(match caches.is_empty() {
            true => shared.forward(latents, timesteps, text, num_cond)?,
            false => shared.forward_cached(latents, timesteps, text, caches)?,
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
        if self.passes_apart(true) > 1 && (cached || few) {
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
        let apart = self.passes_apart(guided) > 1;
        // One prompt needs one copy of the condition, whatever the guidance, and so do devices of one pass.
        let passes = match latents.dims()[0] {
            1 => latents,
            _ if guided && !apart => Tensor::cat(vec![latents.clone(), latents], 0),
            _ => latents,
        };
        Ok(match self.replicas {
            [replica] => vec![replica.cache_condition(passes, offload)?],
            _ => self.shared(guided)?.cache_condition(passes, offload)?,
        })
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
