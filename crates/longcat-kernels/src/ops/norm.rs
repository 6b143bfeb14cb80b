//! Normalisations, with the affine map that follows them.

use burn::tensor::Tensor;

use super::elementwise::assert_groups;
use crate::KernelBackend;
use crate::portable::{from_float, into_float};

/// LayerNorm over the last dimension, `norm(x) · weight + bias`.
///
/// `x` is `[.., C]`; `weight` and `bias` are `[G, C]` in f32, where row `g` serves the `g`-th of `G`
/// equal runs of consecutive rows of `x`. One group is a plain affine LayerNorm; one group per
/// frame is adaptive modulation, with `weight = 1 + scale` and `bias = shift`.
///
/// # Panics
/// If the widths differ, or the groups do not divide the rows.
pub fn layer_norm<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
    epsilon: f64,
) -> Tensor<B, D> {
    assert_groups("layer_norm", x.dims(), weight.dims());
    assert_groups("layer_norm", x.dims(), bias.dims());
    from_float(B::layer_norm_forward(
        into_float(x),
        into_float(weight),
        into_float(bias),
        epsilon,
    ))
}

/// The smallest squared norm that [`rms_norm`] divides by. The bound is put on the sum of squares, so
/// that the gradient at 0 is 0 and not NaN.
pub(crate) const MIN_SQUARED_NORM: f64 = 1e-24;

/// Scales every row of `x` `[.., C]` to a root mean square of 1, then its channels by `weight` `[C]`
/// in f32; then, with `silu`, takes the SiLU of that, rounded to the dtype of `x`.
///
/// Differs from an RMS norm with an epsilon: only a norm below 1e-12 is raised, to that (the
/// `F.normalize` of the Wan VAE).
///
/// # Panics
/// If the weight does not fit.
pub fn rms_norm<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 1>,
    silu: bool,
) -> Tensor<B, D> {
    assert_eq!(
        weight.dims(),
        [x.dims()[D - 1]],
        "rms_norm: weight for {:?}",
        x.dims()
    );
    from_float(B::rms_norm_forward(into_float(x), into_float(weight), silu))
}
