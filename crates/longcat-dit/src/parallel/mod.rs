//! One forward pass on several devices of a host.
//!
//! Every device has all weights and a share of the latent frames. Around self-attention, tokens are
//! exchanged for heads and back: each device then has all tokens of its share of the heads (DeepSpeed
//! Ulysses, arXiv:2309.14509). Everything else is a matter of single tokens. Heads are exchanged in groups, so
//! that devices attend to one while others are on their way.

mod exchange;
mod pass;

use std::ops::Range;

use burn::tensor::Tensor;
use longcat_kernels::{KernelBackend, transfer};

use crate::{DitError, KvCache, LongCatTransformer, RopeTables, TextCondition};
use pass::Pass;

/// Replicas of one transformer, one per device, which share the frames or are teams for the samples of a batch.
///
/// Inputs are on the device of the first replica, and so is what comes back. Work is queued by one host thread, which
/// waits for no device: block by block, for all teams, since a device takes so much of it ahead and no more, and
/// whoever gives it more waits.
#[derive(Debug)]
pub struct ParallelTransformer<'a, B: KernelBackend> {
    teams: Vec<Team<'a, B>>,
}

/// Replicas that share each pass.
#[derive(Debug)]
struct Team<'a, B: KernelBackend> {
    replicas: &'a [LongCatTransformer<B>],
    devices: &'a [B::Device],
    /// Heads per device.
    heads: usize,
    /// Groups of them, if it was said how many.
    groups: Option<usize>,
}

impl<'a, B: KernelBackend> ParallelTransformer<'a, B> {
    /// Replicas with the same weights, and the device of each, which share the frames of all samples.
    ///
    /// # Errors
    /// [`DitError::Devices`] if the heads cannot be dealt out evenly.
    ///
    /// # Panics
    /// Unless there is a replica for each device.
    pub fn new(
        replicas: &'a [LongCatTransformer<B>],
        devices: &'a [B::Device],
    ) -> Result<Self, DitError> {
        Self::in_teams(replicas, devices, 1)
    }

    /// Replicas in teams, the first ones being the first team, each of which takes an equal share of the samples: two
    /// for the two passes of guidance. Teams exchange nothing between inputs and outputs; the devices of a team share
    /// the frames of its samples.
    ///
    /// # Errors
    /// [`DitError::Devices`] if the devices make no teams of one size, or the heads cannot be dealt out evenly
    /// in one.
    ///
    /// # Panics
    /// Unless there is a replica for each device.
    pub fn in_teams(
        replicas: &'a [LongCatTransformer<B>],
        devices: &'a [B::Device],
        teams: usize,
    ) -> Result<Self, DitError> {
        assert_eq!(replicas.len(), devices.len(), "a replica for each device");
        let uneven = |devices: usize, what, count| DitError::Devices {
            devices,
            what,
            count,
        };
        if devices.is_empty() || teams == 0 || !devices.len().is_multiple_of(teams) {
            return Err(uneven(devices.len(), "passes", teams));
        }
        let size = devices.len() / teams;
        let heads = replicas[0].config().num_heads;
        if !heads.is_multiple_of(size) {
            return Err(uneven(size, "attention heads", heads));
        }
        let teams = replicas.chunks(size).zip(devices.chunks(size));
        let teams = teams.map(|(replicas, devices)| Team {
            replicas,
            devices,
            heads: heads / size,
            groups: None,
        });
        Ok(Self {
            teams: teams.collect(),
        })
    }

    /// Exchanges the heads of a device in so many groups, as far as it has so many: while devices attend to
    /// one, others are on their way. Results are the same; by default there are as many as pay.
    #[must_use]
    pub fn with_groups(mut self, groups: usize) -> Self {
        for team in &mut self.teams {
            team.groups = Some(groups);
        }
        self
    }

    /// As [`LongCatTransformer::forward`].
    ///
    /// # Errors
    /// As there, and [`DitError::Devices`] if the samples cannot be dealt out evenly to teams, or for fewer latent
    /// frames than devices of a team.
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

    /// As [`LongCatTransformer::cache_condition`]: a cache for each device, with its heads. Of several teams, latents
    /// are those of one team's samples, which are those of all.
    ///
    /// # Errors
    /// As there.
    pub fn cache_condition(
        &self,
        latents: Tensor<B, 5>,
        offload: bool,
    ) -> Result<Vec<KvCache<B>>, DitError> {
        let mut caches = Vec::new();
        for team in &self.teams {
            // Few frames, and once per clip: each device computes all of it and keeps its heads.
            for (rank, (replica, device)) in team.replicas.iter().zip(team.devices).enumerate() {
                let latents = transfer(latents.clone(), device);
                caches.push(replica.cache_heads(latents, offload, team.heads_of(rank))?);
            }
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
        let devices: usize = self.teams.iter().map(|team| team.devices.len()).sum();
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
            if teams == 1 {
                return team.send(latents, timesteps, text);
            }
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
        let mut parts: Vec<Tensor<B, 5>> = passes.into_iter().map(|p| p.output(device)).collect();
        Ok(match teams {
            1 => parts.remove(0),
            _ => Tensor::cat(parts, 0),
        })
    }
}

impl<B: KernelBackend> Team<'_, B> {
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
