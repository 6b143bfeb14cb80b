//! Samples of one batch beside each other, each share of them on its own devices.

use burn::tensor::Tensor;
use longcat_kernels::KernelBackend;

use super::pass::Pass;
use super::{ParallelTransformer, check_conditions};
use crate::{DitError, KvCache, LongCatTransformer, TextCondition};

/// Replicas of one transformer in teams, each of which takes an equal share of the samples: two for the two
/// passes of guidance. Teams exchange nothing between inputs, which are on the first device, and outputs, which
/// come back there; the devices of a team share its passes as a [`ParallelTransformer`].
///
/// Work is queued by one host thread, block by block for all teams: a device takes so much of it ahead and no
/// more, and whoever gives it more waits.
#[derive(Debug)]
pub struct TeamedTransformer<'a, B: KernelBackend> {
    teams: Vec<ParallelTransformer<'a, B>>,
}

impl<'a, B: KernelBackend> TeamedTransformer<'a, B> {
    /// Replicas with the same weights, and the device of each: the first ones are the first team.
    ///
    /// # Errors
    /// [`DitError::Devices`] if the devices make no teams of one size, or the heads cannot be dealt out evenly
    /// in one.
    ///
    /// # Panics
    /// Unless there is a replica for each device.
    pub fn new(
        replicas: &'a [LongCatTransformer<B>],
        devices: &[B::Device],
        teams: usize,
    ) -> Result<Self, DitError> {
        assert_eq!(replicas.len(), devices.len(), "a replica for each device");
        if devices.is_empty() || teams == 0 || !devices.len().is_multiple_of(teams) {
            return Err(DitError::Devices {
                devices: devices.len(),
                what: "passes",
                count: teams,
            });
        }
        let size = devices.len() / teams;
        let teams = replicas.chunks(size).zip(devices.chunks(size));
        let teams = teams.map(|(replicas, devices)| ParallelTransformer::new(replicas, devices));
        Ok(Self {
            teams: teams.collect::<Result<_, _>>()?,
        })
    }

    /// As [`LongCatTransformer::forward`].
    ///
    /// # Errors
    /// As there, and [`DitError::Devices`] if the samples cannot be dealt out evenly, or for fewer latent frames
    /// than devices of a team.
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

    /// As [`LongCatTransformer::cache_condition`]: a cache for each device, of the latents of one team's samples,
    /// which are those of all.
    ///
    /// # Errors
    /// As there.
    pub fn cache_condition(
        &self,
        latents: &Tensor<B, 5>,
        offload: bool,
    ) -> Result<Vec<KvCache<B>>, DitError> {
        let mut caches = Vec::new();
        for team in &self.teams {
            caches.extend(team.cache_condition(latents.clone(), offload)?);
        }
        Ok(caches)
    }

    /// As [`LongCatTransformer::forward_cached`], with the caches of [`Self::cache_condition`].
    ///
    /// # Errors
    /// As there and in [`Self::forward`].
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
        let devices = self.teams.iter().map(|team| team.devices.len());
        let devices: usize = devices.sum();
        assert_eq!(caches.len(), devices, "a cache for each device");
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
        let (samples, teams) = (latents.dims()[0], self.teams.len());
        if !samples.is_multiple_of(teams) {
            return Err(DitError::Devices {
                devices: teams,
                what: "samples",
                count: samples,
            });
        }
        let share = samples / teams;
        let inputs = self.teams.iter().enumerate().map(|(number, team)| {
            let first = number * share;
            let latents = latents.clone().narrow(0, first, share);
            let timesteps = timesteps.clone().narrow(0, first, share);
            team.send(&latents, &timesteps, &text.samples(first..first + share))
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let size = caches.len() / teams;
        let passes = self.teams.iter().zip(inputs).enumerate();
        let passes = passes.map(|(number, (team, inputs))| {
            let caches = &caches[number * size..(number + 1) * size];
            Pass::begin(team, inputs, num_cond, caches)
        });
        let mut passes = passes.collect::<Result<Vec<_>, _>>()?;
        for _ in 0..self.teams[0].depth() {
            passes.iter_mut().try_for_each(Pass::block)?;
        }
        let device = &self.teams[0].devices[0];
        let parts = passes.into_iter().map(|pass| pass.output(device));
        Ok(Tensor::cat(parts.collect(), 0))
    }
}
