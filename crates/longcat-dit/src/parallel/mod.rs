//! One forward pass on several devices of a host.
//!
//! Every device has all weights and a share of the latent frames. Around self-attention, tokens are
//! exchanged for heads and back: each device then has all tokens of its share of the heads (DeepSpeed
//! Ulysses, arXiv:2309.14509). Everything else is a matter of single tokens. Heads are exchanged in groups, so
//! that devices attend to one while others are on their way.

use std::ops::Range;

use burn::tensor::Tensor;
use longcat_kernels::{Gathering, KernelBackend, PartCopy, transfer};

use crate::attention::{Extent, Heads, KeysValues, attend_all, attend_cached};
use crate::block::Attending;
use crate::{
    Block, BlockContext, DitError, Embedded, KvCache, LongCatTransformer, RopeTables, TextCondition,
};

/// Groups that a device's heads are exchanged in, at most.
const MOST_GROUPS: usize = 4;
/// Queries of all heads of a group, at least: the attention of fewer leaves a large GPU idle at its end for
/// longer than the exchange of a group takes.
const GROUP_QUERIES: usize = 1 << 17;

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
        let cached_tokens = cached * space;
        let mut shares = self.embed(latents, timesteps, text, num_cond, [cached, height, width])?;
        let tokens: Vec<Range<usize>> = shares
            .iter()
            .map(|share| share.frames.start * space..share.frames.end * space)
            .collect();
        let all = [cached + frames, height, width];
        let conditions = caches.iter().enumerate().map(|(rank, cache)| Cached {
            cache,
            rope: self.tables(rank, all, 0..cached_tokens),
        });
        let conditions: Vec<Cached<B>> = conditions.collect();
        let groups = self.groups(batch * frames * space);
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
            let layers = conditions.iter().zip(&self.devices);
            let layers = layers.map(|(condition, device)| {
                let tokens = cached_tokens;
                condition.cache.layer_for(index, device, batch, tokens)
            });
            let layers: Vec<KeysValues<B>> = layers.collect::<Result<_, _>>()?;
            let attended = self.exchange(heads, &tokens, &groups, |rank, group, heads| {
                let extent = Extent {
                    grid: [frames, height, width],
                    num_cond,
                    bsa: shares[rank].context.bsa.as_ref(),
                };
                match conditions.get(rank) {
                    None => attend_all(heads, extent),
                    Some(Cached { rope, .. }) => {
                        let own = |x: Tensor<B, 4>| match group.len() == self.heads {
                            true => x,
                            false => x.narrow(1, group.start, group.len()),
                        };
                        let (k, v) = layers[rank].clone();
                        attend_cached(heads, (own(k), own(v)), rope, extent)
                    }
                }
            });
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

    /// Groups of a device's heads, for so many queries of each.
    fn groups(&self, queries: usize) -> Vec<Range<usize>> {
        let by_size = || match B::copies_aside(&self.devices) {
            Some(_) => (self.heads * queries / GROUP_QUERIES).min(MOST_GROUPS),
            // Nothing is exchanged while devices attend.
            None => 1,
        };
        let groups = self.groups.unwrap_or_else(by_size);
        deal(self.heads, groups.clamp(1, self.heads))
    }

    /// Attention of all tokens for all heads of each device's tokens: `attend` is asked for it on each device,
    /// for each group of the device's heads.
    fn exchange(
        &self,
        parts: Vec<Heads<B>>,
        tokens: &[Range<usize>],
        groups: &[Range<usize>],
        mut attend: impl FnMut(usize, &Range<usize>, Heads<B>) -> Tensor<B, 4>,
    ) -> Vec<Tensor<B, 4>> {
        let [batch, heads, _, width] = parts[0][0].dims();
        let dtype = parts[0][0].dtype();
        // All are sent before any is attended to: a copy waits for what was queued before it.
        let sources: Vec<Tensor<B, 4>> = parts.into_iter().flatten().collect();
        let coming = groups.iter().map(|group| {
            let all = tokens.last().map_or(0, |tokens| tokens.end);
            let shape = [batch, group.len(), all, width];
            let targets = self.devices.iter().flat_map(|device| {
                let target = (device.clone(), shape);
                [target.clone(), target.clone(), target]
            });
            let mut coming = Gathering::new(targets.collect(), dtype);
            coming.send(sources.clone(), self.to_heads(tokens, group));
            coming
        });
        let coming: Vec<Gathering<B>> = coming.collect();
        drop(sources);
        let targets = self.devices.iter().zip(tokens);
        let targets =
            targets.map(|(device, own)| (device.clone(), [batch, heads, own.len(), width]));
        let mut attended = Gathering::new(targets.collect(), dtype);
        for (group, coming) in groups.iter().zip(coming) {
            let mut arrived = coming.finish().into_iter();
            let mut rank = 0;
            let mut of_group = Vec::with_capacity(self.devices.len());
            while let (Some(q), Some(k), Some(v)) = (arrived.next(), arrived.next(), arrived.next())
            {
                of_group.push(attend(rank, group, [q, k, v]));
                rank += 1;
            }
            attended.send(of_group, self.to_tokens(tokens, group));
        }
        attended.finish()
    }

    /// From all heads of each device's tokens to all tokens of a group of its heads: queries, keys and values
    /// of each device, one after another.
    fn to_heads(&self, tokens: &[Range<usize>], group: &Range<usize>) -> Vec<PartCopy> {
        let parts = self.pairs().flat_map(|(from, to)| {
            let first = self.heads_of(to).start;
            let heads = first + group.start..first + group.end;
            let (own, start) = (0..tokens[from].len(), tokens[from].start);
            [0, 1, 2].map(|which| PartCopy {
                source: 3 * from + which,
                target: 3 * to + which,
                heads: heads.clone(),
                tokens: own.clone(),
                place: [0, start],
            })
        });
        parts.collect()
    }

    /// From all tokens of a group of each device's heads to all heads of its tokens.
    fn to_tokens(&self, tokens: &[Range<usize>], group: &Range<usize>) -> Vec<PartCopy> {
        let parts = self.pairs().map(|(from, to)| PartCopy {
            source: from,
            target: to,
            heads: 0..group.len(),
            tokens: tokens[to].clone(),
            place: [self.heads_of(from).start + group.start, 0],
        });
        parts.collect()
    }

    /// Who sends to whom, in an order in which not all send to the same at once, and to themselves last.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let count = self.devices.len();
        (1..=count).flat_map(move |step| (0..count).map(move |from| (from, (from + step) % count)))
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

/// `count` things dealt out as evenly as they go, the first shares being the larger ones.
fn deal(count: usize, shares: usize) -> Vec<Range<usize>> {
    let (each, more) = (count / shares, count % shares);
    let start = |share: usize| share * each + share.min(more);
    (0..shares).map(|s| start(s)..start(s + 1)).collect()
}
