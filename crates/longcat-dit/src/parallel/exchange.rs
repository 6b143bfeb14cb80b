//! Tokens for heads and back, between the devices that share a pass.

use std::ops::Range;

use burn::tensor::Tensor;
use longcat_kernels::{Gathering, KernelBackend, PartCopy};

use super::{Team, deal};
use crate::attention::Heads;

/// Groups that a device's heads are exchanged in, at most.
const MOST_GROUPS: usize = 4;
/// Queries of all heads of a group, at least: the attention of fewer leaves a large GPU idle at its start and end for
/// longer than it saves (two H200s, 16 heads of 37,440 queries each: 34.25 ms a block in one group, 33.99 in two, 34.22
/// in four).
const GROUP_QUERIES: usize = 1 << 18;

impl<B: KernelBackend> Team<'_, B> {
    /// Groups of a device's heads, for so many queries of each.
    pub(super) fn groups(&self, queries: usize) -> Vec<Range<usize>> {
        let by_size = || match self.devices.len() > 1 && B::copies_aside(self.devices).is_some() {
            true => (self.heads * queries / GROUP_QUERIES).min(MOST_GROUPS),
            // Nothing is exchanged while devices attend.
            false => 1,
        };
        let groups = self.groups.unwrap_or_else(by_size);
        deal(self.heads, groups.clamp(1, self.heads))
    }

    /// Attention of all tokens for all heads of each device's tokens: `attend` is asked for it on each device,
    /// for each group of the device's heads.
    pub(super) fn exchange(
        &self,
        parts: Vec<Heads<B>>,
        tokens: &[Range<usize>],
        groups: &[Range<usize>],
        mut attend: impl FnMut(usize, &Range<usize>, Heads<B>) -> Tensor<B, 4>,
    ) -> Vec<Tensor<B, 4>> {
        if self.devices.len() == 1 {
            let parts = parts.into_iter();
            return parts
                .map(|heads| attend(0, &(0..self.heads), heads))
                .collect();
        }
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
