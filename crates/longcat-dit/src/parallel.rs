//! One forward pass on several devices of a host.
//!
//! Every device has all weights and a share of the latent frames. Around self-attention, tokens are
//! exchanged for heads and back: each device then has all tokens of its share of the heads (DeepSpeed
//! Ulysses, arXiv:2309.14509). Everything else is a matter of single tokens.

use std::ops::Range;

use burn::tensor::Tensor;
use longcat_kernels::KernelBackend;

use crate::attention::{Extent, Heads, attend_all, attend_cached};
use crate::block::Attending;
use crate::{
    Block, BlockContext, DitError, Embedded, KvCache, LongCatTransformer, RopeTables, TextCondition,
};

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
}

/// What one device does in a forward pass.
struct Share<B: KernelBackend> {
    /// Its frames of the clip.
    frames: Range<usize>,
    context: BlockContext<B>,
    /// On their way through the blocks.
    tokens: Tensor<B, 3>,
}

/// Condition frames that come from a cache, on one device.
struct Cached<'a, B: KernelBackend> {
    cache: &'a KvCache<B>,
    rope: RopeTables<B>,
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
        })
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
        let frames = latents.dims()[2];
        if num_cond >= frames {
            return Err(DitError::ConditionFrames {
                count: num_cond,
                frames,
                expected: "at least one frame must be noise",
            });
        }
        self.run(latents, timesteps, text, num_cond, &[])
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
        self.run(latents, timesteps, text, 0, caches)
    }

    fn run(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        num_cond: usize,
        caches: &[KvCache<B>],
    ) -> Result<Tensor<B, 5>, DitError> {
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
        let [_, height, width] = self.replicas[0].grid(&latents)?;
        let space = height * width;
        let cached = caches.first().map_or(0, KvCache::num_latents);
        let mut shares = self.embed(latents, timesteps, text, num_cond, [cached, height, width])?;
        let tokens: Vec<Range<usize>> = shares
            .iter()
            .map(|share| share.frames.start * space..share.frames.end * space)
            .collect();
        let all = [cached + frames, height, width];
        let conditions = caches.iter().enumerate().map(|(rank, cache)| Cached {
            cache,
            rope: self.tables(rank, all, 0..cached * space),
        });
        let conditions: Vec<Cached<B>> = conditions.collect();
        let depth = self.replicas[0].depth();
        let turns = self.replicas.iter().map(|model| model.in_turn(0..depth));
        let mut turns: Vec<_> = turns.collect();
        for index in 0..depth {
            let blocks = turns.iter_mut().filter_map(Iterator::next);
            let blocks: Vec<&Block<B>> = blocks.map(|(_, block)| block).collect();
            let (heads, attending): (Vec<Heads<B>>, Vec<Attending<B>>) = blocks
                .iter()
                .zip(&shares)
                .map(|(block, share)| block.begin(share.tokens.clone(), &share.context))
                .unzip();
            let mut attended = Vec::with_capacity(self.devices.len());
            for (rank, heads) in self.to_heads(heads).into_iter().enumerate() {
                let extent = Extent {
                    grid: [frames, height, width],
                    num_cond,
                    bsa: shares[rank].context.bsa.as_ref(),
                };
                attended.push(match conditions.get(rank) {
                    None => attend_all(heads, extent),
                    Some(Cached { cache, rope }) => {
                        let device = &self.devices[rank];
                        let layer = cache.layer_for(index, device, batch, cached * space)?;
                        attend_cached(heads, layer, rope, extent)
                    }
                });
            }
            let attended = self.to_tokens(&attended, &tokens);
            let parts = blocks.into_iter().zip(&mut shares);
            for ((block, share), (attending, attended)) in
                parts.zip(attending.into_iter().zip(attended))
            {
                share.tokens =
                    block.finish(attending, attended, &share.context, share.context.num_cond);
            }
        }
        let parts = self.replicas.iter().zip(shares);
        let parts = parts.map(|(model, share)| {
            let part = model.head(share.tokens, &share.context);
            transfer(part, &self.devices[0])
        });
        Ok(Tensor::cat(parts.collect(), 2))
    }

    /// Everything before the first block, on every device. The last argument is the number of latent
    /// frames in a cache, and height and width of the token grid.
    fn embed(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        num_cond: usize,
        [cached, height, width]: [usize; 3],
    ) -> Result<Vec<Share<B>>, DitError> {
        let frames = latents.dims()[2];
        let grid = [cached + frames, height, width];
        let space = height * width;
        let dealt = deal(frames, self.devices.len());
        // What is sent from a device waits for all that was queued there: first the inputs.
        let inputs = dealt
            .into_iter()
            .zip(&self.devices)
            .map(|(frames, device)| {
                let latents = latents.clone().narrow(2, frames.start, frames.len());
                let timesteps = timesteps.clone().narrow(1, frames.start, frames.len());
                let (latents, timesteps) = (transfer(latents, device), transfer(timesteps, device));
                (frames, latents, timesteps, text.on(device))
            });
        let inputs: Vec<_> = inputs.collect();
        let mut shares = Vec::with_capacity(self.devices.len());
        for (rank, (frames, latents, timesteps, text)) in inputs.into_iter().enumerate() {
            let replica = &self.replicas[rank];
            let text = replica.embed_text(&text)?;
            let place = (cached + frames.start) * space..(cached + frames.end) * space;
            let rope = self.tables(rank, grid, place);
            // Conditions come first, so that they are the first frames of a share, too.
            let share_cond = num_cond.clamp(frames.start, frames.end) - frames.start;
            let Embedded { tokens, context } =
                replica.embed_latents(latents, timesteps, Some(text), share_cond, rope)?;
            shares.push(Share {
                frames,
                context,
                tokens,
            });
        }
        Ok(shares)
    }

    fn tables(&self, rank: usize, grid: [usize; 3], tokens: Range<usize>) -> RopeTables<B> {
        self.replicas[rank]
            .tables(grid, &self.devices[rank])
            .part(tokens)
    }

    fn heads_of(&self, rank: usize) -> Range<usize> {
        rank * self.heads..(rank + 1) * self.heads
    }

    /// From all heads of each device's tokens to all tokens of its heads.
    fn to_heads(&self, parts: Vec<Heads<B>>) -> Vec<Heads<B>> {
        let receive = |rank: usize, which: usize| {
            let heads = self.heads_of(rank);
            let parts = parts.iter().map(|part| {
                let part = part[which].clone().narrow(1, heads.start, heads.len());
                transfer(part, &self.devices[rank])
            });
            Tensor::cat(parts.collect(), 2)
        };
        (0..self.devices.len())
            .map(|rank| [0, 1, 2].map(|which| receive(rank, which)))
            .collect()
    }

    /// From all tokens of each device's heads to all heads of its tokens.
    fn to_tokens(&self, parts: &[Tensor<B, 4>], tokens: &[Range<usize>]) -> Vec<Tensor<B, 4>> {
        let receive = |(device, tokens): (&B::Device, &Range<usize>)| {
            let parts = parts.iter().map(|part| {
                let part = part.clone().narrow(2, tokens.start, tokens.len());
                transfer(part, device)
            });
            Tensor::cat(parts.collect(), 1)
        };
        self.devices.iter().zip(tokens).map(receive).collect()
    }
}

/// As [`LongCatTransformer::forward`], or [`LongCatTransformer::forward_cached`] where there are
/// caches: each device has a replica, a cache, and an equal share of the samples. Nothing is exchanged
/// between inputs, which are on the first device, and outputs, which come back there.
///
/// # Errors
/// As there, and [`DitError::Devices`] if the samples cannot be dealt out evenly.
pub fn forward_samples<B: KernelBackend>(
    replicas: &[LongCatTransformer<B>],
    devices: &[B::Device],
    latents: Tensor<B, 5>,
    timesteps: Tensor<B, 2>,
    text: &TextCondition<B>,
    num_cond: usize,
    caches: &[KvCache<B>],
) -> Result<Tensor<B, 5>, DitError> {
    let samples = latents.dims()[0];
    if !samples.is_multiple_of(devices.len()) {
        return Err(DitError::Devices {
            devices: devices.len(),
            what: "samples",
            count: samples,
        });
    }
    let share = samples / devices.len();
    // What is sent from a device waits for all that was queued there: first the inputs.
    let inputs = devices.iter().enumerate().map(|(rank, device)| {
        let first = rank * share;
        let latents = latents.clone().narrow(0, first, share);
        let timesteps = timesteps.clone().narrow(0, first, share);
        let text = text.samples(first..first + share).on(device);
        (transfer(latents, device), transfer(timesteps, device), text)
    });
    let inputs: Vec<_> = inputs.collect();
    let parts = replicas.iter().zip(inputs).enumerate();
    let parts = parts.map(
        |(rank, (replica, (latents, timesteps, text)))| match caches.get(rank) {
            Some(cache) => replica.forward_cached(latents, timesteps, &text, cache),
            None => replica.forward(latents, timesteps, &text, num_cond),
        },
    );
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    // All passes are under way before the first one is waited for.
    let parts = parts.into_iter().map(|part| transfer(part, &devices[0]));
    Ok(Tensor::cat(parts.collect(), 0))
}

/// Moves a tensor to another device, behind all that was queued on both, and before all that will
/// be. Nothing waits on the host.
pub fn transfer<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    device: &B::Device,
) -> Tensor<B, D> {
    let from = x.device();
    if from == *device {
        return x;
    }
    let order = || [&from, device].into_iter().for_each(B::order_transfers);
    order();
    let moved = x.to_device(device);
    order();
    moved
}

/// `count` frames dealt out as evenly as they go, the first shares being the larger ones.
fn deal(count: usize, shares: usize) -> Vec<Range<usize>> {
    let (each, more) = (count / shares, count % shares);
    let start = |share: usize| share * each + share.min(more);
    (0..shares).map(|s| start(s)..start(s + 1)).collect()
}
