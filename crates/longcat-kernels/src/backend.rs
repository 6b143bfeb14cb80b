//! The trait of the operations that models ask of a backend.

use std::ops::Range;

use burn::tensor::DType;
use burn_backend::tensor::{FloatTensor, IntTensor};

use crate::{
    BlockList, BlockRule, Conv3dOptions, KernelDevice, LowRankPart, PackedTensors, PatchGrid,
    WithQuantized, portable,
};

/// A backend that runs the models' heavy operations.
///
/// Every method has a portable body made of Burn tensor operations, so that
/// `impl KernelBackend for MyBackend {}` is enough. Overrides must compute the same function;
/// dtypes, shapes and strides are whatever the caller has, so an override checks what it supports
/// and falls back to the function of the same name in [`portable`] for the rest.
///
/// # Names
/// - An operation `f` that models call as a function of tensors is the method `f_forward` (Burn's
///   [`Backend`](burn::tensor::backend::Backend) has methods `linear`, `attention`, `layer_norm` and
///   `conv3d` of its own).
/// - The gradients of its float inputs, if one call computes them all, are `f_backward`; the gradient
///   of one input is `f_<input>_backward`. They are not differentiable themselves.
/// - A step that bodies of these are made of has a name without such an ending: [`conv3d_matrix`],
///   [`conv3d_patches`], [`select_blocks`], [`permute`], [`block_sums`], [`column_sums`],
///   [`softmax_with_lse`], [`words_of_floats`], [`quantize_rows`],
///   [`attention_eight_bit`], [`quantize_heads`], [`layer_norm_quantized`], [`silu_mul_quantized`], [`layer_norm_with_quantized`],
///   [`silu_mul_with_quantized`], [`merge_heads_with_quantized`].
///
/// A portable body, and a backend's kernel where it is a function of its own, has the name of the
/// method.
///
/// [`conv3d_matrix`]: Self::conv3d_matrix
/// [`conv3d_patches`]: Self::conv3d_patches
/// [`select_blocks`]: Self::select_blocks
/// [`permute`]: Self::permute
/// [`block_sums`]: Self::block_sums
/// [`column_sums`]: Self::column_sums
/// [`softmax_with_lse`]: Self::softmax_with_lse
/// [`words_of_floats`]: Self::words_of_floats
/// [`attention_eight_bit`]: Self::attention_eight_bit
/// [`quantize_rows`]: Self::quantize_rows
/// [`quantize_heads`]: Self::quantize_heads
/// [`layer_norm_quantized`]: Self::layer_norm_quantized
/// [`silu_mul_quantized`]: Self::silu_mul_quantized
/// [`layer_norm_with_quantized`]: Self::layer_norm_with_quantized
/// [`silu_mul_with_quantized`]: Self::silu_mul_with_quantized
/// [`merge_heads_with_quantized`]: Self::merge_heads_with_quantized
pub trait KernelBackend: KernelDevice {
    /// `x · weightᵀ + bias`.
    ///
    /// `x` is `[..., in]` of rank 2 or more, `weight` `[out, in]`, `bias` `[out]`; all of one float
    /// dtype, which is also that of the result `[..., out]`.
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        portable::linear_forward::<Self>(x, weight, bias)
    }

    /// `x · Wᵀ + bias` for the numbers of a packed weight, see [`linear_packed`](crate::linear_packed).
    ///
    /// Under autodiff differentiable in `x` and `bias`; the weight is a constant.
    fn linear_packed_forward(
        x: FloatTensor<Self>,
        weight: PackedTensors<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        portable::linear_packed_forward::<Self>(x, weight, bias)
    }

    /// The numbers of a packed weight, `[out, in]` in `dtype` (F64, F32, F16 or BF16); see
    /// [`unpack_weight`](crate::unpack_weight). Overrides make the same bits. Not differentiable.
    fn unpack_weight_forward(weight: PackedTensors<Self>, dtype: DType) -> FloatTensor<Self> {
        portable::unpack_weight_forward::<Self>(weight, dtype)
    }

    /// The bits of a row of f32 as words in I32: a row that was uploaded as floats may hold the words of a
    /// packed weight. Not differentiable.
    fn words_of_floats(row: FloatTensor<Self>) -> IntTensor<Self> {
        portable::words_of_floats::<Self>(row)
    }

    /// Rows `[.., columns]` to e4m3 in words `[rows · columns / 4]` and scales `[rows]`, see
    /// [`quantize_rows`](crate::quantize_rows). Overrides make the same bits. Not differentiable.
    fn quantize_rows(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        portable::quantize_rows::<Self>(x)
    }

    /// [`quantize_rows`](Self::quantize_rows) of heads `[B, H, N, D]` side by side, see
    /// [`quantize_heads`](crate::quantize_heads).
    fn quantize_heads(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        portable::quantize_heads::<Self>(x)
    }

    /// [`quantize_rows`](Self::quantize_rows) of [`layer_norm_forward`](Self::layer_norm_forward), see
    /// [`layer_norm_quantized`](crate::layer_norm_quantized).
    fn layer_norm_quantized(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        portable::layer_norm_quantized::<Self>(x, weight, bias, epsilon)
    }

    /// [`quantize_rows`](Self::quantize_rows) of [`silu_mul_forward`](Self::silu_mul_forward), see
    /// [`silu_mul_quantized`](crate::silu_mul_quantized).
    fn silu_mul_quantized(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        portable::silu_mul_quantized::<Self>(a, b)
    }

    /// [`layer_norm_forward`](Self::layer_norm_forward) and [`quantize_rows`](Self::quantize_rows) of it.
    fn layer_norm_with_quantized(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> WithQuantized<Self> {
        portable::layer_norm_with_quantized::<Self>(x, weight, bias, epsilon)
    }

    /// [`silu_mul_forward`](Self::silu_mul_forward) and [`quantize_rows`](Self::quantize_rows) of it.
    fn silu_mul_with_quantized(a: FloatTensor<Self>, b: FloatTensor<Self>) -> WithQuantized<Self> {
        portable::silu_mul_with_quantized::<Self>(a, b)
    }

    /// [`merge_heads`](crate::merge_heads), and [`quantize_rows`](Self::quantize_rows) of it.
    fn merge_heads_with_quantized(x: FloatTensor<Self>) -> WithQuantized<Self> {
        portable::merge_heads_with_quantized::<Self>(x)
    }

    /// `x · Wᵀ + bias` `[rows, out]` in `dtype` for rows and a weight in e4m3, see
    /// [`linear_quantized`](crate::linear_quantized). Not differentiable.
    fn linear_quantized_forward(
        x: PackedTensors<Self>,
        weight: PackedTensors<Self>,
        bias: Option<FloatTensor<Self>>,
        dtype: DType,
    ) -> FloatTensor<Self> {
        portable::linear_quantized_forward::<Self>(x, weight, bias, dtype)
    }

    /// `a · bᵀ`, see [`matmul_nt`](crate::matmul_nt).
    fn matmul_nt_forward(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::matmul_nt_forward::<Self>(a, b)
    }

    /// `y` plus, for every part, its share of `hidden` times its matrix in its own columns; see
    /// [`add_low_rank`](crate::add_low_rank).
    fn add_low_rank_forward(
        y: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        parts: Vec<LowRankPart<Self>>,
    ) -> FloatTensor<Self> {
        portable::add_low_rank_forward::<Self>(y, hidden, parts)
    }

    /// `softmax(q · kᵀ * scale) · v`, over all keys or over the listed key blocks.
    ///
    /// `q` is `[B, H, Nq, D]`, `k` and `v` are `[B, H, Nk, D]`, of one float dtype. With `blocks`,
    /// `Nq` and `Nk` are whole numbers of blocks and the tokens of a block are contiguous.
    ///
    /// Returns the output `[B, H, Nq, D]` in the dtype of `q`, and the natural logarithm of the sum
    /// of exponentials of the scaled scores, `[B, H, Nq]` in f32. A query whose list is empty gets
    /// an output of zero and a log-sum-exp of minus infinity. Sums are accumulated in f32.
    ///
    /// Under autodiff the output is differentiable in `q`, `k`, `v`; the log-sum-exp is a constant.
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::attention_forward::<Self>(q, k, v, blocks, scale)
    }

    /// The output of [`attention_forward`](Self::attention_forward) in eight bits where the backend has a kernel
    /// for it and it pays, see [`AttentionNumbers::Fp8`](crate::AttentionNumbers::Fp8); else just that.
    ///
    /// Under autodiff always just that, with its gradients.
    fn attention_eight_bit(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> FloatTensor<Self> {
        Self::attention_forward(q, k, v, blocks, scale).0
    }

    /// Gradients `(dq, dk, dv)` of [`attention_forward`](Self::attention_forward), each in the
    /// shape and dtype of its tensor.
    ///
    /// `out`, `lse`, `blocks` and `scale` are those of the forward pass, `d_out` is the gradient of
    /// the output. The list is a constant. Not differentiable itself.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::attention_backward::<Self>(q, k, v, out, lse, d_out, blocks, scale)
    }

    /// Applies a [`BlockRule`] to block scores `[B, H, Mq, Mk]` (f32, finite).
    ///
    /// Returns the `indices` `[B, H, Mq, rule.width(Mk)]` and `counts` `[B, H, Mq]` of a
    /// [`BlockList`], on the device, in the backend's default integer dtype. Not differentiable.
    fn select_blocks(
        scores: FloatTensor<Self>,
        rule: BlockRule,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        portable::select_blocks::<Self>(scores, rule)
    }

    /// The softmax of `scores · scale` `[B, H, M, N]` over the last dimension, in the same dtype, and
    /// the natural logarithm of the sums of exponentials, `[B, H, M]`.
    fn softmax_with_lse(
        scores: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::softmax_with_lse::<Self>(scores, scale)
    }

    /// `norm(x) · weight + bias` over the last dimension, see [`layer_norm`](crate::layer_norm).
    ///
    /// `x` is `[.., C]`; `weight` and `bias` are `[G, C]` in f32 and serve `G` equal runs of rows.
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        portable::layer_norm_forward::<Self>(x, weight, bias, epsilon)
    }

    /// The gradient of [`layer_norm_forward`](Self::layer_norm_forward) in `x`, in its shape and
    /// dtype, for the gradient `d_out` of the output. Not differentiable itself.
    fn layer_norm_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        portable::layer_norm_x_backward::<Self>(x, weight, d_out, epsilon)
    }

    /// Rows scaled to a root mean square of 1, then by channel; see [`rms_norm`](crate::rms_norm).
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        silu: bool,
    ) -> FloatTensor<Self> {
        portable::rms_norm_forward::<Self>(x, weight, silu)
    }

    /// The gradients of [`rms_norm_forward`](Self::rms_norm_forward) in `x` (its shape and dtype)
    /// and `weight` (`[C]` in f32), for the gradient `d_out` of the output. Not differentiable itself.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        silu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::rms_norm_backward::<Self>(x, weight, d_out, silu)
    }

    /// `x + gate · y`, see [`gated_residual`](crate::gated_residual).
    ///
    /// `x` and `y` are `[.., C]`; `gate` is `[G, C]` in f32 and serves `G` equal runs of rows.
    fn gated_residual_forward(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        portable::gated_residual_forward::<Self>(x, y, gate)
    }

    /// The gradient of [`gated_residual_forward`](Self::gated_residual_forward) in `y`, `gate · d_out`,
    /// in the shape and dtype of the gradient `d_out` of the output (which is that in `x`). Not
    /// differentiable itself.
    fn gated_residual_y_backward(
        d_out: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        portable::gated_residual_y_backward::<Self>(d_out, gate)
    }

    /// `silu(a) · b`, see [`silu_mul`](crate::silu_mul). Shapes and dtypes are equal.
    fn silu_mul_forward(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::silu_mul_forward::<Self>(a, b)
    }

    /// The gradients of [`silu_mul_forward`](Self::silu_mul_forward) in `a` and `b`, in their shape and
    /// dtype, for the gradient `d_out` of the output. Not differentiable itself.
    fn silu_mul_backward(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::silu_mul_backward::<Self>(a, b, d_out)
    }

    /// One part of fused heads `[B, T, parts, H, D]` as `[B, H, T, D]`, normalised and rotated; see
    /// [`split_heads`](crate::split_heads).
    ///
    /// `norm` is a weight `[D]` and epsilon, `rotation` cosines and sines `[T, D / 2]`, all in f32.
    fn split_heads_forward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
    ) -> FloatTensor<Self> {
        portable::split_heads_forward::<Self>(x, part, norm, rotation)
    }

    /// The gradient of [`split_heads_forward`](Self::split_heads_forward) in the part of `x` that was
    /// taken, `[B, T, H, D]` in the dtype of `x`, for the gradient `d_out` `[B, H, T, D]`. Not
    /// differentiable itself.
    fn split_heads_x_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        portable::split_heads_x_backward::<Self>(x, part, norm, rotation, d_out)
    }

    /// The gradient of [`split_heads_forward`](Self::split_heads_forward) in the weight of its norm,
    /// `[D]` in f32, for the gradient `d_out` `[B, H, T, D]`. Not differentiable itself.
    fn split_heads_weight_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: (FloatTensor<Self>, f64),
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        portable::split_heads_weight_backward::<Self>(x, part, norm, rotation, d_out)
    }

    /// A convolution, channels last; see [`conv3d`](crate::conv3d).
    fn conv3d_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        portable::conv3d_forward::<Self>(x, weight, bias, options)
    }

    /// The gradient of [`conv3d_forward`](Self::conv3d_forward) in its input, of shape `input`
    /// `[B, T, H, W, C]`, for the gradient `d_out` `[B, T', H', W', O]`. Not differentiable itself.
    fn conv3d_x_backward(
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        input: [usize; 5],
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        portable::conv3d_x_backward::<Self>(weight, d_out, input, options)
    }

    /// The gradient of [`conv3d_forward`](Self::conv3d_forward) in its weight, of shape `weight`
    /// `[O, C, kt, kh, kw]`, for the gradient `d_out` `[B, T', H', W', O]`. Not differentiable itself.
    fn conv3d_weight_backward(
        x: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        weight: [usize; 5],
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        portable::conv3d_weight_backward::<Self>(x, d_out, weight, options)
    }

    /// The patches of some lines of a convolution's output: `[lines · W', columns]` for `x`
    /// `[B, T, H, W, C]`, in its dtype, with
    /// `columns = grid.padded_columns(Self::INNER_MULTIPLE)`. Not differentiable.
    fn conv3d_patches(
        x: FloatTensor<Self>,
        grid: &PatchGrid,
        lines: Range<usize>,
    ) -> FloatTensor<Self> {
        portable::conv3d_patches::<Self>(x, grid, lines)
    }

    /// A convolution's weight `[O, C, kt, kh, kw]` as the matrix that its patches are multiplied with:
    /// `[O, taps · C]`, columns filled up with zeros to a multiple of
    /// [`INNER_MULTIPLE`](KernelDevice::INNER_MULTIPLE) and rows to one of at most 8. `mirrored` is the
    /// weight of the transposed convolution, `[C, taps · O]` with the taps in reverse. Not
    /// differentiable.
    fn conv3d_matrix(weight: FloatTensor<Self>, mirrored: bool) -> FloatTensor<Self> {
        portable::conv3d_matrix::<Self>(weight, mirrored)
    }

    /// `x` with its dimensions in the order `axes`. Where the backend has a kernel for it, the result
    /// lies in memory in that order, which saves its reader a slower copy.
    fn permute(x: FloatTensor<Self>, axes: &[usize]) -> FloatTensor<Self> {
        portable::permute::<Self>(x, axes)
    }

    /// Sums of runs of `block` rows of `[R · block, C]`, `[R, C]` in f32 (f64 for f64). Not
    /// differentiable.
    fn block_sums(x: FloatTensor<Self>, block: usize) -> FloatTensor<Self> {
        portable::block_sums::<Self>(x, block)
    }

    /// Sums of `[.., C]` over all but the last dimension, `[C]` in f32 (f64 for f64). Not
    /// differentiable.
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::column_sums::<Self>(x)
    }
}
