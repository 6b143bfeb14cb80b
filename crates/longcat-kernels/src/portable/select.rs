//! Portable block selection.
//!
//! Burn's sort goes through the host on GPUs, so the boundary score is found by bisection, with
//! comparisons and sums only.

use burn::tensor::{Bool, Tensor, activation::softmax, backend::Backend};
use burn_backend::tensor::{FloatTensor, IntTensor};

use super::{from_float, mask_to_list};
use crate::BlockRule;

/// Halvings of the range of scores. What is left of the range is below the rounding of f32 scores;
/// scores that close count as equal.
const HALVINGS: usize = 32;

/// See [`KernelBackend::select_blocks`](crate::KernelBackend::select_blocks).
pub fn select_blocks<B: Backend>(
    scores: FloatTensor<B>,
    rule: BlockRule,
) -> (IntTensor<B>, IntTensor<B>) {
    let scores: Tensor<B, 4> = from_float(scores);
    let width = rule.width(scores.dims()[3]);
    let (indices, counts) = mask_to_list(select_mask(scores, rule), width);
    (indices.into_primitive(), counts.into_primitive())
}

fn select_mask<B: Backend>(scores: Tensor<B, 4>, rule: BlockRule) -> Tensor<B, 4, Bool> {
    let by_count = top_within(scores.clone(), scores.ones_like(), rule.top as f64 + 0.5);
    match rule.cdf {
        None => by_count,
        // Both are beginnings of the same order, so their union is the longer one.
        Some(cdf) => top_within(
            scores.clone(),
            softmax(scores * cdf.scale, 3),
            cdf.threshold,
        )
        .bool_or(by_count),
    }
}

/// In each row, the highest scores for as long as the sum of their weights is within `limit`.
fn top_within<B: Backend>(
    scores: Tensor<B, 4>,
    weights: Tensor<B, 4>,
    limit: f64,
) -> Tensor<B, 4, Bool> {
    let dims = scores.dims();
    let outside = |mask: Tensor<B, 4, Bool>| weights.clone().mask_fill(mask, 0.0);
    // All scores above `high` fit, those above `low` do not (or `low` is below all).
    let mut high = scores.clone().max_dim(3);
    let lowest = scores.clone().min_dim(3);
    let margin = (high.clone() - lowest.clone()).abs() + lowest.clone().abs() * 1e-3 + 1e-20;
    let mut low = lowest - margin;
    for _ in 0..HALVINGS {
        let middle = (low.clone() + high.clone()) * 0.5;
        let not_above = scores.clone().lower_equal(middle.clone().expand(dims));
        let fits = outside(not_above).sum_dim(3).lower_equal_elem(limit);
        high = high.mask_where(fits.clone(), middle.clone());
        low = middle.mask_where(fits, low);
    }
    let above = scores.clone().greater(high.expand(dims));
    // Scores equal to within the bisection: as many as fit, in order of their index.
    let tied = scores
        .greater(low.expand(dims))
        .bool_and(above.clone().bool_not());
    let base = outside(above.clone().bool_not()).sum_dim(3);
    let running = outside(tied.clone().bool_not()).cumsum(3) + base;
    above.bool_or(tied.bool_and(running.lower_equal_elem(limit)))
}
