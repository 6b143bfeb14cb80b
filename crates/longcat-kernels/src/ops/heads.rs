//! Heads: out of fused projections, and side by side again.

use burn::tensor::{Tensor, backend::Backend};

use crate::KernelBackend;
use crate::portable::{from_float, into_float};

/// Cosines and sines, each `[T, D / 2]` in f32, that rotate the interleaved channel pairs of token
/// `t`: `(even, odd) → (even · cos − odd · sin, odd · cos + even · sin)`.
#[derive(Debug, Clone)]
pub struct Rotation<B: Backend> {
    /// Cosine of each token's angle per pair.
    pub cos: Tensor<B, 2>,
    /// Sine of the same.
    pub sin: Tensor<B, 2>,
}

/// Part `part` of fused heads `[B, T, parts, H, D]` as `[B, H, T, D]`.
///
/// With `norm` = (weight `[D]` in f32, epsilon), each head is divided by its root mean square,
/// multiplied by the weight and rounded to the dtype of `x`; then it is rotated, if asked for.
///
/// # Panics
/// If there is no such part, or a table does not fit.
pub fn split_heads<B: KernelBackend>(
    x: Tensor<B, 5>,
    part: usize,
    norm: Option<(Tensor<B, 1>, f64)>,
    rotation: Option<Rotation<B>>,
) -> Tensor<B, 4> {
    let [_, tokens, parts, _, width] = x.dims();
    assert!(part < parts, "split_heads: part {part} of {parts}");
    if let Some((weight, _)) = &norm {
        assert_eq!(weight.dims(), [width], "split_heads: weight of the norm");
    }
    if let Some(rotation) = &rotation {
        for table in [&rotation.cos, &rotation.sin] {
            assert_eq!(
                (table.dims(), width % 2),
                ([tokens, width / 2], 0),
                "split_heads: rotation of heads of width {width}"
            );
        }
    }
    from_float(B::split_heads_forward(
        into_float(x),
        part,
        norm.map(|(weight, epsilon)| (into_float(weight), epsilon)),
        rotation.map(|table| (into_float(table.cos), into_float(table.sin))),
    ))
}

/// Outputs of all heads `[B, H, N, D]` side by side, `[B, N, H · D]`.
pub fn merge_heads<B: KernelBackend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [b, heads, n, d] = x.dims();
    permuted(x, [0, 2, 1, 3]).reshape([b, n, heads * d])
}

/// `x` with its dimensions in the order `axes`; see [`KernelBackend::permute`].
pub(crate) fn permuted<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    axes: [usize; D],
) -> Tensor<B, D> {
    from_float(B::permute(into_float(x), &axes))
}
