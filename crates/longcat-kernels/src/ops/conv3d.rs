//! Convolutions over time and space, channels last.

use burn::tensor::Tensor;

use crate::KernelBackend;
#[cfg(feature = "cubecl")]
use crate::PatchGrid;
use crate::portable::{from_float, into_float};

/// How a convolution moves over its input. Each array is for time, height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv3dOptions {
    /// Steps from one output to the next.
    pub stride: [usize; 3],
    /// Zeros before and after the input, each fewer than the kernel is wide.
    pub padding: [[usize; 2]; 3],
    /// Every input position stands for this many in a row (nearest-neighbour upsampling), which
    /// costs no copy of the enlarged input.
    pub upsample: [usize; 3],
}

impl Default for Conv3dOptions {
    fn default() -> Self {
        Self {
            stride: [1; 3],
            padding: [[0; 2]; 3],
            upsample: [1; 3],
        }
    }
}

impl Conv3dOptions {
    /// Whether a kernel of these taps sees one position at a time, so that the convolution is a linear layer.
    pub(crate) fn is_linear(&self, kernel: [usize; 3]) -> bool {
        kernel == [1; 3] && *self == Self::default()
    }
}

/// A convolution (cross-correlation) of `x` `[B, T, H, W, C]` with `weight` `[O, C, kt, kh, kw]`,
/// plus `bias` `[O]`, to `[B, T', H', W', O]`. All of one float dtype. Differentiable in all three.
///
/// # Panics
/// If shapes do not fit, the kernel does not fit into the padded input, or a padding is as wide as
/// the kernel.
pub fn conv3d<B: KernelBackend>(
    x: Tensor<B, 5>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    options: Conv3dOptions,
) -> Tensor<B, 5> {
    let ([.., channels], [out, inner, ..]) = (x.dims(), weight.dims());
    assert_eq!(
        channels, inner,
        "conv3d: channels of the input and the weight"
    );
    assert_eq!(bias.dims(), [out], "conv3d: bias of {out} channels");
    from_float(B::conv3d_forward(
        into_float(x),
        into_float(weight),
        into_float(bias),
        options,
    ))
}

/// Shape of [`forward`] for an input and a weight of these shapes.
#[cfg(feature = "cubecl")]
pub(crate) fn output_shape(
    input: [usize; 5],
    [out, _, kernel @ ..]: [usize; 5],
    options: &Conv3dOptions,
) -> [usize; 5] {
    let [t, h, w] = PatchGrid::forward(input, kernel, options).output;
    [input[0], t, h, w, out]
}

/// Shape of [`KernelBackend::conv3d_matrix`] for a weight of shape `[O, C, kt, kh, kw]`; `multiple` is
/// what its columns are filled up to.
pub(crate) fn matrix_shape(
    [out, inner, kt, kh, kw]: [usize; 5],
    mirrored: bool,
    multiple: usize,
) -> [usize; 2] {
    let (rows, channels) = if mirrored { (inner, out) } else { (out, inner) };
    let columns = (channels * kt * kh * kw).next_multiple_of(multiple);
    [padded_rows(rows, multiple), columns]
}

/// Matrix units want rows of whole vectors of the result, too; `multiple` is that of the inner
/// dimension.
pub(crate) fn padded_rows(rows: usize, multiple: usize) -> usize {
    rows.next_multiple_of(multiple.min(8))
}
