//! Pieces of a clip, so that what is wide in a block exists for some of its tokens at a time.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// How many tokens a block works on at a time where each is by itself; `None` is all of them.
///
/// Pieces are whole latent frames of one sample, equal where that takes few more, and at least one frame. Results
/// are the same numbers wherever a row of a matrix product does not depend on the number of rows. On
/// CUDA the library chooses its kernel by that number, also among thousands of rows: runs that are to
/// give the same bits need the same pieces.
///
/// Meant for making videos: pieces are written into one tensor, which autodiff would copy each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenPieces {
    /// Tokens of a piece at most: on the way to queries, keys and values, in cross-attention, feed-forward
    /// and the last layer.
    pub most: Option<usize>,
}

impl TokenPieces {
    /// Pieces of at most so many tokens.
    pub const fn of(most: usize) -> Self {
        Self { most: Some(most) }
    }

    /// Tokens of the pieces of clips of `frames` latent frames of `space` tokens each, every number once and the
    /// largest first; those of all samples where there are no pieces.
    pub fn sizes(self, samples: usize, frames: usize, space: usize) -> Vec<usize> {
        let all = samples * frames * space;
        match self.most {
            Some(most) if all > most => {
                let each = frames_each(most, frames, space);
                let mut sizes = vec![each * space];
                let last = frames % each;
                if last > 0 {
                    sizes.push(last * space);
                }
                sizes
            }
            _ => vec![all],
        }
    }
}

/// Some frames of one sample.
pub(crate) struct Piece {
    sample: usize,
    frames: Range<usize>,
    /// Tokens of the sample.
    pub(crate) tokens: Range<usize>,
    /// Rows of all tokens of all samples.
    rows: Range<usize>,
}

/// Frames of all pieces but the last.
///
/// Memory of each size is kept for that size: a last piece of another one takes half as much again or more. Up to
/// twice as many pieces are taken for all to be equal.
fn frames_each(most: usize, frames: usize, space: usize) -> usize {
    let most = (most / space.max(1)).clamp(1, frames.max(1));
    let fewest = frames.div_ceil(most).max(1);
    let mut counts = fewest..=2 * fewest;
    let count = counts.find(|count| frames.is_multiple_of(*count));
    frames.div_ceil(count.unwrap_or(fewest)).max(1)
}

/// The frames `chosen` of every sample in pieces of at most `most` tokens, on a grid of `grid` tokens;
/// `None` where they are to be taken all at once.
pub(crate) fn pieces(
    most: Option<usize>,
    samples: usize,
    grid: [usize; 3],
    chosen: Range<usize>,
) -> Option<Vec<Piece>> {
    let [frames, height, width] = grid;
    let (most, space) = (most?, height * width);
    if samples * chosen.len() * space <= most {
        return None;
    }
    let each = frames_each(most, chosen.len(), space);
    let of_sample = |sample: usize| {
        let end = chosen.end;
        chosen.clone().step_by(each).map(move |start| {
            let frames = start..end.min(start + each);
            let tokens = frames.start * space..frames.end * space;
            (sample, frames, tokens)
        })
    };
    let all = (0..samples).flat_map(of_sample);
    let piece = |(sample, of_frames, tokens): (usize, Range<usize>, Range<usize>)| {
        let first = sample * frames * space;
        Piece {
            sample,
            frames: of_frames,
            rows: first + tokens.start..first + tokens.end,
            tokens,
        }
    };
    Some(all.map(piece).collect())
}

impl Piece {
    /// The sample that the tokens belong to.
    pub(crate) fn sample(&self) -> usize {
        self.sample
    }

    /// Its tokens `[1, n, C]` of the rows `[B · N, C]` of all.
    pub(crate) fn of_rows<B: Backend>(&self, rows: &Tensor<B, 2>) -> Tensor<B, 3> {
        let part = rows.clone().narrow(0, self.rows.start, self.rows.len());
        part.unsqueeze()
    }

    /// Its frames `[1, t, C]` of a table `[B, T, C]`.
    pub(crate) fn of_table<B: Backend>(&self, table: &Tensor<B, 3>) -> Tensor<B, 3> {
        let sample = table.clone().narrow(0, self.sample, 1);
        sample.narrow(1, self.frames.start, self.frames.len())
    }

    /// Rows `[B · N, C]` with its own replaced by `[1, n, C]`.
    pub(crate) fn put<B: Backend>(&self, rows: Tensor<B, 2>, part: Tensor<B, 3>) -> Tensor<B, 2> {
        let width = rows.dims()[1];
        rows.slice_assign([self.rows.clone(), 0..width], part.flatten(0, 1))
    }

    /// Heads `[B, heads, N, D]` with its own replaced by `[1, heads, n, D]`.
    pub(crate) fn put_heads<B: Backend>(
        &self,
        all: Tensor<B, 4>,
        part: Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let [_, heads, _, width] = all.dims();
        let sample = self.sample..self.sample + 1;
        all.slice_assign([sample, 0..heads, self.tokens.clone(), 0..width], part)
    }
}

/// Tokens `[B, N, C]`, each piece replaced by what `work` makes of it, in the memory that they have
/// where nothing else holds it.
pub(crate) fn replace<B: Backend>(
    x: Tensor<B, 3>,
    pieces: &[Piece],
    mut work: impl FnMut(Tensor<B, 3>, &Piece) -> Tensor<B, 3>,
) -> Tensor<B, 3> {
    let shape = x.dims();
    let mut rows = x.reshape([shape[0] * shape[1], shape[2]]);
    for piece in pieces {
        let part = work(piece.of_rows(&rows), piece);
        rows = piece.put(rows, part);
    }
    rows.reshape(shape)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::{Distribution, TensorData};
    use burn_flex::{Flex, FlexDevice};
    use longcat_kernels::BsaParams;

    use super::*;
    use crate::{DitConfig, LongCatTransformer, TextCondition};

    #[test]
    fn pieces_are_whole_frames_and_cover_what_was_chosen() {
        let grid = [24, 30, 52];
        assert!(pieces(None, 1, grid, 0..24).is_none());
        assert!(pieces(Some(24 * 1560), 1, grid, 0..24).is_none());
        // 16,384 tokens are ten frames; three pieces of eight are as few and equal.
        let found = pieces(Some(16_384), 2, grid, 0..24).unwrap();
        let frames: Vec<_> = found.iter().map(|p| (p.sample, p.frames.clone())).collect();
        let expected = [0, 1].map(|s| [(s, 0..8), (s, 8..16), (s, 16..24)]);
        assert_eq!(frames, expected.concat());
        assert_eq!(found[4].tokens, 8 * 1560..16 * 1560);
        assert_eq!(found[4].rows, 32 * 1560..40 * 1560);
        let sizes = |frames| TokenPieces::of(16_384).sizes(2, frames, 1560);
        assert_eq!(sizes(24), [8 * 1560]);
        assert_eq!(sizes(23), [8 * 1560, 7 * 1560]);
        // Three equal pieces rather than one of eight and one of seven.
        assert_eq!(sizes(15), [5 * 1560]);
        assert_eq!(sizes(5), [2 * 5 * 1560]);
        // After conditions, and never less than a frame.
        let found = pieces(Some(10), 1, [3, 4, 4], 1..3).unwrap();
        let tokens: Vec<_> = found.iter().map(|p| p.tokens.clone()).collect();
        assert_eq!(tokens, [16..32, 32..48]);
    }

    #[test]
    fn predictions_in_pieces_are_the_same_bits() {
        let config = DitConfig {
            hidden_size: 32,
            depth: 2,
            num_heads: 2,
            caption_channels: 8,
            adaln_tembed_dim: 16,
            frequency_embedding_size: 16,
            bsa_params: Some(BsaParams {
                sparsity: Some(0.5),
                cdf_threshold: None,
                chunk_3d_shape_q: [2, 2, 2],
                chunk_3d_shape_k: [2, 2, 2],
                empty_selection: Default::default(),
            }),
            ..DitConfig::default()
        };
        let mut model = LongCatTransformer::<Flex>::new(&config, &FlexDevice);
        let normal = Distribution::Normal(0.0, 1.0);
        let random = |shape: [usize; 5]| Tensor::<Flex, 5>::random(shape, normal, &FlexDevice);
        // Two samples of five frames of 64 tokens. Smaller products, of at most 256 numbers, are summed in
        // another order on the CPU.
        let latents = random([2, config.in_channels, 5, 16, 16]);
        let timesteps = Tensor::full([2, 5], 500.0, &FlexDevice);
        let text = |mask: bool| TextCondition {
            embeds: random([1, 1, 2, 8, config.caption_channels]).reshape([2, 8, 8]),
            mask: mask.then(|| vec![[vec![true; 6], vec![false; 2]].concat(), vec![true; 8]]),
        };
        let texts = [text(false), text(true)];
        let mut predict = |pieces: TokenPieces| {
            let mut all: Vec<TensorData> = Vec::new();
            model.set_pieces(pieces);
            for bsa in [false, true] {
                model.set_bsa(bsa).unwrap();
                for (text, num_cond) in [(&texts[0], 0), (&texts[1], 2)] {
                    let (latents, times) = (latents.clone(), timesteps.clone());
                    let found = model.forward(latents, times, text, num_cond);
                    all.push(found.unwrap().into_data());
                }
                let clean = latents.clone().narrow(2, 0, 2);
                let cache = model.cache_condition(clean, false).unwrap();
                let (noise, times) = (latents.clone().narrow(2, 2, 3), timesteps.clone());
                let times = times.narrow(1, 2, 3);
                let found = model.forward_cached(noise, times, &texts[1], &cache);
                all.push(found.unwrap().into_data());
            }
            all
        };
        let whole = predict(TokenPieces::default());
        for most in [64, 128, 192, 256] {
            assert!(predict(TokenPieces::of(most)) == whole, "{most}");
        }
    }
}
