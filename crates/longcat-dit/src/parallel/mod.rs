//! One forward pass on several devices of a host.
//!
//! Every device has all weights and a share of the latent frames. Around self-attention, tokens are
//! exchanged for heads and back: each device then has all tokens of its share of the heads (DeepSpeed
//! Ulysses, arXiv:2309.14509). Everything else is a matter of single tokens. Heads are exchanged in groups, so
//! that devices attend to one while others are on their way.

mod exchange;
mod pass;
mod teams;

use std::ops::Range;

use burn::tensor::Tensor;
use longcat_kernels::{KernelBackend, transfer};

use crate::{DitError, KvCache, LongCatTransformer, RopeTables, TextCondition};
use pass::Pass;

pub use teams::TeamedTransformer;

/// Replicas of one transformer, one per device.
///
/// Inputs are on the device of the first replica, and so is what comes back. Work is queued by one
/// host thread, which waits for no device.
#[derive(Debug)]
pub struct ParallelTransformer<'a, B: KernelBackend> {
    replicas: &'a [LongCatTransformer<B>],
    devices: Vec<B::Device>,
    /// Heads per device.
    heads: usize,
    /// Groups of them, if it was said how many.
    groups: Option<usize>,
}

impl<'a, B: KernelBackend> ParallelTransformer<'a, B> {
    /// Replicas with the same weights, and the device of each.
    ///
    /// # Errors
    /// [`DitError::Devices`] if the heads cannot be dealt out evenly.
    ///
    /// # Panics
    /// Unless there is a replica for each device.
    pub fn new(
        replicas: &'a [LongCatTransformer<B>],
        devices: &[B::Device],
    ) -> Result<Self, DitError> {
        assert_eq!(replicas.len(), devices.len(), "a replica for each device");
        let heads = replicas.first().map_or(0, |r| r.config().num_heads);
        if devices.is_empty() || !heads.is_multiple_of(devices.len()) {
            return Err(DitError::Devices {
                devices: devices.len(),
                what: "attention heads",
                count: heads,
            });
        }
        Ok(Self {
            replicas,
            devices: devices.to_vec(),
            heads: heads / devices.len(),
            groups: None,
        })
    }

    /// Exchanges the heads of a device in so many groups, as far as it has so many: while devices attend to
    /// one, others are on their way. Results are the same; by default there are as many as pay.
    #[must_use]
    pub fn with_groups(self, groups: usize) -> Self {
        Self {
            groups: Some(groups),
            ..self
        }
    }

    /// As [`LongCatTransformer::forward`].
    ///
    /// # Errors
    /// As there, and [`DitError::Devices`] for fewer latent frames than devices.
    pub fn forward(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        num_cond: usize,
    ) -> Result<Tensor<B, 5>, DitError> {
        check_conditions(num_cond, latents.dims()[2])?;
        self.run(&latents, &timesteps, text, num_cond, &[])
    }

    /// As [`LongCatTransformer::cache_condition`]: a cache for each device, with its heads.
    ///
    /// # Errors
    /// As there.
    pub fn cache_condition(
        &self,
        latents: Tensor<B, 5>,
        offload: bool,
    ) -> Result<Vec<KvCache<B>>, DitError> {
        // Few frames, and once per clip: each device computes all of it and keeps its heads.
        let ranks = self.replicas.iter().zip(&self.devices).enumerate();
        ranks
            .map(|(rank, (replica, device))| {
                let latents = transfer(latents.clone(), device);
                replica.cache_heads(latents, offload, self.heads_of(rank))
            })
            .collect()
    }

    /// As [`LongCatTransformer::forward_cached`], with the caches of [`Self::cache_condition`].
    ///
    /// # Errors
    /// As there, and [`DitError::Devices`] for fewer latent frames than devices.
    ///
    /// # Panics
    /// Unless there is a cache for each device.
    pub fn forward_cached(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        caches: &[KvCache<B>],
    ) -> Result<Tensor<B, 5>, DitError> {
        assert_eq!(caches.len(), self.devices.len(), "a cache for each device");
        self.run(&latents, &timesteps, text, 0, caches)
    }

    fn run(
        &self,
        latents: &Tensor<B, 5>,
        timesteps: &Tensor<B, 2>,
        text: &TextCondition<B>,
        num_cond: usize,
        caches: &[KvCache<B>],
    ) -> Result<Tensor<B, 5>, DitError> {
        let inputs = self.send(latents, timesteps, text)?;
        let mut pass = Pass::begin(self, inputs, num_cond, caches)?;
        for _ in 0..self.depth() {
            pass.block()?;
        }
        Ok(pass.output(&self.devices[0]))
    }

    fn depth(&self) -> usize {
        self.replicas[0].depth()
    }

    fn tables(&self, rank: usize, grid: [usize; 3], tokens: Range<usize>) -> RopeTables<B> {
        self.replicas[rank]
            .tables(grid, &self.devices[rank])
            .part(tokens)
    }

    fn heads_of(&self, rank: usize) -> Range<usize> {
        rank * self.heads..(rank + 1) * self.heads
    }
}

/// Refuses conditions that leave no frame to be noise.
fn check_conditions(count: usize, frames: usize) -> Result<(), DitError> {
    match count < frames {
        true => Ok(()),
        false => Err(DitError::ConditionFrames {
            count,
            frames,
            expected: "at least one frame must be noise",
        }),
    }
}

/// `count` things dealt out as evenly as they go, the first shares being the larger ones.
fn deal(count: usize, shares: usize) -> Vec<Range<usize>> {
    let (each, more) = (count / shares, count % shares);
    let start = |share: usize| share * each + share.min(more);
    (0..shares).map(|s| start(s)..start(s + 1)).collect()
}
