//! Regrouping of a token grid into contiguous blocks.

use burn::tensor::{Int, Tensor, TensorData};

use super::block_means;
use crate::{KernelBackend, ops::heads::permuted};

/// Moves tokens between T, H, W order and blocks, one t×h×w chunk a block.
///
/// Real tokens come first in a block, in T, H, W order of the chunk; padding follows.
pub(super) struct Regroup {
    grid: [usize; 3],
    chunk: [usize; 3],
    /// Chunks along each axis.
    counts: [usize; 3],
}

impl Regroup {
    pub fn new(grid: [usize; 3], chunk: [usize; 3]) -> Self {
        assert!(
            !grid.contains(&0) && !chunk.contains(&0),
            "block-sparse attention: grid {grid:?} and chunk {chunk:?} must not be empty",
        );
        Self {
            grid,
            chunk,
            counts: [0, 1, 2].map(|axis| grid[axis].div_ceil(chunk[axis])),
        }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.counts.iter().product()
    }

    /// Tokens per block, padding included.
    pub fn block(&self) -> usize {
        self.chunk.iter().product()
    }

    fn tokens(&self) -> usize {
        self.grid.iter().product()
    }

    fn is_ragged(&self) -> bool {
        self.blocks() * self.block() != self.tokens()
    }

    /// `[B, H, N, D]` in T, H, W order to `[B, H, M * block, D]`.
    pub fn gather<B: KernelBackend>(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [b, h, n, d] = x.dims();
        assert_eq!(
            n,
            self.tokens(),
            "block-sparse attention: {n} tokens on a grid of {:?}",
            self.grid
        );
        if self.is_ragged() {
            let order = self.order().into_iter();
            // Padding repeats the first token; it is masked wherever it could be seen.
            let source = order.map(|token| token.unwrap_or(0) as i32).collect();
            let source = indices(source, &x.device());
            return x.select(2, source);
        }
        let ([mt, mh, mw], [ct, ch, cw]) = (self.counts, self.chunk);
        let x = x.reshape([b * h, mt, ct, mh, ch, mw, cw * d]);
        permuted(x, [0, 1, 3, 5, 2, 4, 6]).reshape([b, h, n, d])
    }

    /// The inverse of [`gather`](Self::gather); padding is dropped.
    pub fn scatter<B: KernelBackend>(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [b, h, n, d] = x.dims();
        if self.is_ragged() {
            let mut place = vec![0; self.tokens()];
            for (at, token) in self.order().into_iter().enumerate() {
                if let Some(token) = token {
                    place[token] = at as i32;
                }
            }
            let place = indices(place, &x.device());
            return x.select(2, place);
        }
        let ([mt, mh, mw], [ct, ch, cw]) = (self.counts, self.chunk);
        let x = x.reshape([b * h, mt, mh, mw, ct, ch, cw * d]);
        permuted(x, [0, 1, 4, 2, 5, 3, 6]).reshape([b, h, n, d])
    }

    /// Number of real tokens in each block `[M]`, if any block is padded.
    pub fn valid<B: KernelBackend>(&self, device: &B::Device) -> Option<Tensor<B, 1, Int>> {
        self.is_ragged().then(|| {
            let counts = self
                .boxes()
                .map(|(_, len)| len.iter().product::<usize>() as i32);
            indices(counts.collect(), device)
        })
    }

    /// Averages of regrouped tokens over the real tokens of each block, `[B, H, M, D]` in f32.
    pub fn mean<B: KernelBackend>(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (block, blocks) = (self.block(), self.blocks());
        if !self.is_ragged() {
            return block_means(x, block);
        }
        // Weights that are 0 on padding and make up for the smaller number elsewhere.
        let weights = self.boxes().flat_map(|(_, len)| {
            let real: usize = len.iter().product();
            let weight = block as f32 / real as f32;
            (0..block).map(move |at| if at < real { weight } else { 0.0 })
        });
        let weights = TensorData::new(weights.collect::<Vec<f32>>(), [1, 1, blocks * block, 1]);
        let weights = Tensor::<B, 4>::from_data(weights, (&x.device(), super::SCORE_DTYPE));
        block_means(x.cast(super::SCORE_DTYPE) * weights, block)
    }

    /// Start and size of each chunk's real part, chunks in T, H, W order.
    fn boxes(&self) -> impl Iterator<Item = ([usize; 3], [usize; 3])> + '_ {
        let [_, mh, mw] = self.counts;
        (0..self.blocks()).map(move |block| {
            let at = [block / (mh * mw), block / mw % mh, block % mw];
            let start = [0, 1, 2].map(|axis| at[axis] * self.chunk[axis]);
            let len = [0, 1, 2].map(|axis| self.chunk[axis].min(self.grid[axis] - start[axis]));
            (start, len)
        })
    }

    /// The token at each place of each block; none for padding.
    fn order(&self) -> Vec<Option<usize>> {
        let [_, gh, gw] = self.grid;
        let mut order = Vec::with_capacity(self.blocks() * self.block());
        for ([t0, h0, w0], [lt, lh, lw]) in self.boxes() {
            let end = order.len() + self.block();
            for t in t0..t0 + lt {
                for h in h0..h0 + lh {
                    order.extend((w0..w0 + lw).map(|w| Some((t * gh + h) * gw + w)));
                }
            }
            order.resize(end, None);
        }
        order
    }
}

fn indices<B: KernelBackend>(values: Vec<i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_blocks_hold_their_real_tokens_first() {
        let group = Regroup::new([2, 1, 3], [2, 1, 2]);
        assert_eq!(
            group.order(),
            [
                Some(0),
                Some(1),
                Some(3),
                Some(4),
                Some(2),
                Some(5),
                None,
                None
            ]
        );
    }

    #[test]
    fn whole_grids_have_the_same_order_both_ways() {
        let group = Regroup::new([4, 2, 6], [2, 2, 3]);
        assert!(!group.is_ragged());
        assert!(group.order().iter().all(Option::is_some));
        assert_eq!(group.order()[..7], [0, 1, 2, 6, 7, 8, 12].map(Some));
    }
}
