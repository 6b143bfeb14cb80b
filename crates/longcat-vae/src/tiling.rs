//! Overlapping tiles: cutting a picture and cross-fading the results.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::Tiling;

/// The tiles of a picture in latent units, row by row.
#[derive(Debug, Clone)]
pub(crate) struct TileGrid {
    rows: Vec<Range<usize>>,
    columns: Vec<Range<usize>>,
}

impl TileGrid {
    /// Tiles for a latent picture of `[height, width]`; `factor` is pixels per latent.
    pub(crate) fn new(size: [usize; 2], tiling: Option<&Tiling>, factor: usize) -> Self {
        let axis = |i: usize| match tiling {
            None => spans(size[i], size[i], size[i]),
            Some(t) => spans(size[i], t.tile[i] / factor, t.stride[i] / factor),
        };
        Self {
            rows: axis(0),
            columns: axis(1),
        }
    }

    /// Number of tiles.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Cuts `[B, C, T, H, W]` into tiles; `scale` is the units of `x` per latent.
    pub(crate) fn cut<B: Backend>(
        &self,
        x: &Tensor<B, 5>,
        tile: usize,
        scale: usize,
    ) -> Tensor<B, 5> {
        let row = &self.rows[tile / self.columns.len()];
        let column = &self.columns[tile % self.columns.len()];
        x.clone()
            .narrow(3, row.start * scale, row.len() * scale)
            .narrow(4, column.start * scale, column.len() * scale)
    }

    /// Puts tiles together; the inverse of [`Self::cut`] where they agree.
    pub(crate) fn join<B: Backend>(&self, tiles: Vec<Tensor<B, 5>>, scale: usize) -> Tensor<B, 5> {
        let rows = tiles
            .chunks(self.columns.len())
            .map(|row| cross_fade(row.to_vec(), &self.columns, 4, scale))
            .collect();
        cross_fade(rows, &self.rows, 3, scale)
    }
}

impl Tiling {
    /// Pixels of all tiles of a picture `[height, width]`: those where tiles overlap count once for each.
    pub fn pixels(&self, size: [usize; 2]) -> usize {
        let along = |i: usize| -> usize {
            let spans = spans(size[i], self.tile[i], self.stride[i].max(1));
            spans.iter().map(ExactSizeIterator::len).sum()
        };
        along(0) * along(1)
    }
}

/// Spans of `tile` units that cover `size`, at most `stride` apart and as evenly as units allow.
///
/// All have the full length, so that every tile sees as much around it as it can.
fn spans(size: usize, tile: usize, stride: usize) -> Vec<Range<usize>> {
    let last = size.saturating_sub(tile);
    let steps = last.div_ceil(stride);
    (0..=steps)
        .map(|i| i * last / steps.max(1))
        .map(|start| start..size.min(start + tile))
        .collect()
}

/// Joins neighbours along `dim`; over their overlap the weight moves linearly from one to the next.
fn cross_fade<B: Backend>(
    parts: Vec<Tensor<B, 5>>,
    spans: &[Range<usize>],
    dim: usize,
    scale: usize,
) -> Tensor<B, 5> {
    let mut parts = parts.into_iter().zip(spans);
    let Some((mut joined, _)) = parts.next() else {
        unreachable!("a grid has at least one tile");
    };
    for (part, span) in parts {
        let (start, end) = (span.start * scale, joined.dims()[dim]);
        let (overlap, length) = (end - start, part.dims()[dim]);
        if overlap == 0 {
            joined = Tensor::cat(vec![joined, part], dim);
            continue;
        }
        let ramp: Vec<f32> = (0..overlap)
            .map(|i| (i as f32 + 0.5) / overlap as f32)
            .collect();
        let mut shape = [1; 5];
        shape[dim] = overlap;
        let ramp =
            Tensor::<B, 5>::from_data(TensorData::new(ramp, shape), (&part.device(), part.dtype()));
        let before = joined.clone().narrow(dim, start, overlap);
        let after = part.clone().narrow(dim, 0, overlap);
        let mut pieces = vec![
            joined.narrow(dim, 0, start),
            before.clone() + (after - before) * ramp,
        ];
        if length > overlap {
            pieces.push(part.narrow(dim, overlap, length - overlap));
        }
        joined = Tensor::cat(pieces, dim);
    }
    joined
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn spans_cover_the_picture_at_most_a_stride_apart() {
        for size in 1..80 {
            for (tile, stride) in [(8, 6), (8, 8), (8, 1), (32, 24), (7, 4)] {
                let spans = spans(size, tile, stride);
                assert_eq!(spans.first().unwrap().start, 0);
                assert_eq!(spans.last().unwrap().end, size);
                assert!(spans.iter().all(|s| s.len() == tile.min(size)));
                for pair in spans.windows(2) {
                    assert!(pair[0].start < pair[1].start);
                    assert!(pair[1].start - pair[0].start <= stride);
                }
            }
        }
    }
}
