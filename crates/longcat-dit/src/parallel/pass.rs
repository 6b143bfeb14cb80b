//! A forward pass on its way through the blocks, on the devices that share it.

use std::ops::Range;

use burn::tensor::Tensor;
use longcat_kernels::{KernelBackend, transfer};

use super::{Team, deal};
use crate::attention::{Extent, Heads, KeysValues, attend_all, attend_cached};
use crate::block::Attending;
use crate::{
    Block, BlockContext, BlocksInTurn, DitError, Embedded, KvCache, RopeTables, TextCondition,
};

/// What a device begins with.
pub(super) struct Input<B: KernelBackend> {
    /// Its frames of the clip.
    frames: Range<usize>,
    latents: Tensor<B, 5>,
    timesteps: Tensor<B, 2>,
    text: TextCondition<B>,
}

/// What one device does in a forward pass.
struct Share<B: KernelBackend> {
    /// Its tokens of the clip.
    place: Range<usize>,
    context: BlockContext<B>,
    /// On their way through the blocks.
    tokens: Tensor<B, 3>,
}

/// Condition frames that come from a cache, on one device.
struct Cached<'a, B: KernelBackend> {
    cache: &'a KvCache<B>,
    rope: RopeTables<B>,
}

/// A forward pass between two blocks.
pub(super) struct Pass<'a, B: KernelBackend> {
    model: &'a Team<'a, B>,
    turns: Vec<BlocksInTurn<'a, B>>,
    shares: Vec<Share<B>>,
    conditions: Vec<Cached<'a, B>>,
    /// Of each device's heads.
    groups: Vec<Range<usize>>,
    samples: usize,
    /// Token grid (T, H, W) of all shares.
    grid: [usize; 3],
    num_cond: usize,
    /// Tokens in a cache.
    cached: usize,
}

impl<B: KernelBackend> Team<'_, B> {
    /// Sends each device its frames. What is sent from a device waits for all that was queued there: passes that
    /// are made beside each other send all inputs first.
    pub(super) fn send(
        &self,
        latents: &Tensor<B, 5>,
        timesteps: &Tensor<B, 2>,
        text: &TextCondition<B>,
    ) -> Result<Vec<Input<B>>, DitError> {
        let [batch, _, frames, _, _] = latents.dims();
        if frames < self.devices.len() {
            return Err(DitError::Devices {
                devices: self.devices.len(),
                what: "latent frames",
                count: frames,
            });
        }
        if timesteps.dims() != [batch, frames] {
            return Err(DitError::Shape {
                input: "timesteps",
                found: timesteps.dims().to_vec(),
                expected: format!("[{batch}, {frames}] like the latents is needed"),
            });
        }
        let shares = deal(frames, self.devices.len()).into_iter();
        let inputs = shares.zip(self.devices).map(|(frames, device)| {
            let latents = latents.clone().narrow(2, frames.start, frames.len());
            let timesteps = timesteps.clone().narrow(1, frames.start, frames.len());
            Input {
                latents: transfer(latents, device),
                timesteps: transfer(timesteps, device),
                text: text.on(device),
                frames,
            }
        });
        Ok(inputs.collect())
    }
}

impl<'a, B: KernelBackend> Pass<'a, B> {
    /// Everything before the first block. There is a cache for each device, or none.
    pub(super) fn begin(
        model: &'a Team<'a, B>,
        inputs: Vec<Input<B>>,
        num_cond: usize,
        caches: &'a [KvCache<B>],
    ) -> Result<Self, DitError> {
        let samples = inputs[0].latents.dims()[0];
        let [_, height, width] = model.replicas[0].grid(&inputs[0].latents)?;
        let frames = inputs.last().map_or(0, |input| input.frames.end);
        let (space, in_cache) = (
            height * width,
            caches.first().map_or(0, KvCache::num_latents),
        );
        let (all, cached) = ([in_cache + frames, height, width], in_cache * space);
        let depth = model.depth();
        // Weights that live in host memory set out meanwhile.
        let turns = model.replicas.iter().map(|model| model.in_turn(0..depth));
        let turns = turns.collect();
        let mut shares = Vec::with_capacity(inputs.len());
        for (rank, input) in inputs.into_iter().enumerate() {
            let replica = &model.replicas[rank];
            let text = replica.embed_text(&input.text)?;
            let frames = input.frames;
            let place = frames.start * space..frames.end * space;
            let rope = model.tables(rank, all, cached + place.start..cached + place.end);
            // Conditions come first, so that they are the first frames of a share, too.
            let share_cond = num_cond.clamp(frames.start, frames.end) - frames.start;
            let (latents, timesteps) = (input.latents, input.timesteps);
            let Embedded { tokens, context } =
                replica.embed_latents(latents, timesteps, Some(text), share_cond, rope)?;
            shares.push(Share {
                place,
                context,
                tokens,
            });
        }
        let conditions = caches.iter().enumerate().map(|(rank, cache)| Cached {
            cache,
            rope: model.tables(rank, all, 0..cached),
        });
        Ok(Self {
            turns,
            shares,
            conditions: conditions.collect(),
            groups: model.groups(samples * frames * space),
            samples,
            grid: [frames, height, width],
            num_cond,
            cached,
            model,
        })
    }

    /// The next block, on all devices.
    pub(super) fn block(&mut self) -> Result<(), DitError> {
        let blocks = self.turns.iter_mut().filter_map(Iterator::next);
        let blocks: Vec<(usize, &Block<B>)> = blocks.collect();
        let begun = blocks.iter().zip(&self.shares);
        let begun =
            begun.map(|((_, block), share)| block.begin(share.tokens.clone(), &share.context));
        let (heads, attending): (Vec<Heads<B>>, Vec<Attending<B>>) = begun.unzip();
        let layers = self.conditions.iter().zip(self.model.devices).zip(&blocks);
        let layers = layers.map(|((condition, device), (index, _))| {
            let (samples, tokens) = (self.samples, self.cached);
            condition.cache.layer_for(*index, device, samples, tokens)
        });
        let layers: Vec<KeysValues<B>> = layers.collect::<Result<_, _>>()?;
        let places: Vec<Range<usize>> = self.shares.iter().map(|s| s.place.clone()).collect();
        let attend = |rank: usize, group: &Range<usize>, heads: Heads<B>| {
            let extent = Extent {
                grid: self.grid,
                num_cond: self.num_cond,
                bsa: self.shares[rank].context.bsa.as_ref(),
                numbers: self.shares[rank].context.numbers,
            };
            match self.conditions.get(rank) {
                None => attend_all(heads, extent),
                Some(Cached { rope, .. }) => {
                    let own = |x: Tensor<B, 4>| match group.len() == x.dims()[1] {
                        true => x,
                        false => x.narrow(1, group.start, group.len()),
                    };
                    let (k, v) = layers[rank].clone();
                    attend_cached(heads, (own(k), own(v)), rope, extent)
                }
            }
        };
        let attended = self.model.exchange(heads, &places, &self.groups, attend);
        let parts = blocks.into_iter().zip(&mut self.shares);
        for (((_, block), share), (attending, attended)) in
            parts.zip(attending.into_iter().zip(attended))
        {
            let num_cond = share.context.num_cond;
            share.tokens = block.finish(attending, attended, &share.context, num_cond);
        }
        Ok(())
    }

    /// Everything after the last block; what comes of it, on a device.
    pub(super) fn output(self, device: &B::Device) -> Tensor<B, 5> {
        let parts = self.model.replicas.iter().zip(self.shares);
        let parts = parts.map(|(model, share)| {
            let part = model.head(share.tokens, &share.context);
            transfer(part, device)
        });
        Tensor::cat(parts.collect(), 2)
    }
}
