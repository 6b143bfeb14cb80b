//! What lies between the linear layers and attention: normalisation, residuals, head layout.
//!
//! The tensor-level functions call [`KernelBackend`]; its portable bodies are here too. All
//! arithmetic is in f32 (f64 for f64 tensors), and each result has the dtype of the first input.

use burn::tensor::{DType, Tensor, activation::sigmoid, backend::Backend};
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use crate::KernelBackend;
use crate::portable::{accumulator, from_float, into_float, to_dtype};

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
    from_float(B::grouped_layer_norm(
        into_float(x),
        into_float(weight),
        into_float(bias),
        epsilon,
    ))
}

/// `x + gate · y`.
///
/// `x` and `y` are `[.., C]` of one dtype; `gate` is `[G, C]` in f32, grouped as in [`layer_norm`].
///
/// # Panics
/// If the shapes differ, or the groups do not divide the rows.
pub fn gated_residual<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    y: Tensor<B, D>,
    gate: Tensor<B, 2>,
) -> Tensor<B, D> {
    assert_eq!(x.dims(), y.dims(), "gated_residual: shapes of x and y");
    assert_groups("gated_residual", x.dims(), gate.dims());
    from_float(B::gated_residual(
        into_float(x),
        into_float(y),
        into_float(gate),
    ))
}

/// `silu(a) · b` for tensors of one shape and dtype; `silu(a)` is rounded to it before the product.
///
/// # Panics
/// If the shapes differ.
pub fn silu_mul<B: KernelBackend, const D: usize>(
    a: Tensor<B, D>,
    b: Tensor<B, D>,
) -> Tensor<B, D> {
    assert_eq!(a.dims(), b.dims(), "silu_mul: shapes of a and b");
    from_float(B::silu_mul(into_float(a), into_float(b)))
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
    from_float(B::rms_norm(into_float(x), into_float(weight), silu))
}

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
    from_float(B::split_heads(
        into_float(x),
        part,
        norm.map(|(weight, epsilon)| (into_float(weight), epsilon)),
        rotation.map(|table| (into_float(table.cos), into_float(table.sin))),
    ))
}

fn assert_groups<const D: usize>(name: &str, x: [usize; D], table: [usize; 2]) {
    let rows = x[..D - 1].iter().product::<usize>();
    let [count, width] = table;
    assert!(
        width == x[D - 1] && count > 0 && rows.is_multiple_of(count),
        "{name}: a table [{count}, {width}] does not divide the rows of {x:?}"
    );
}

/// Portable bodies of the trait's fused methods.
pub(crate) mod portable {
    use super::*;

    /// `x` as `[groups, rows, C]`, and a table `[groups, C]` as `[groups, 1, C]`, in f32.
    fn grouped<B: Backend>(x: FloatTensor<B>, groups: usize) -> Tensor<B, 3> {
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        let rows = shape.num_elements() / (groups * width);
        let dtype = accumulator(x.dtype());
        let x = B::float_reshape(x, Shape::new([groups, rows, width]));
        to_dtype(from_float(x), dtype)
    }

    fn table<B: Backend>(table: FloatTensor<B>, dtype: DType) -> Tensor<B, 3> {
        to_dtype(from_float::<B, 2>(table), dtype).unsqueeze_dim(1)
    }

    fn finish<B: Backend>(x: Tensor<B, 3>, shape: Shape, dtype: DType) -> FloatTensor<B> {
        B::float_reshape(into_float(to_dtype(x, dtype)), shape)
    }

    pub(crate) fn layer_norm<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: FloatTensor<B>,
        epsilon: f64,
    ) -> FloatTensor<B> {
        let (shape, dtype) = (x.shape(), x.dtype());
        let x = grouped::<B>(x, weight.shape()[0]);
        let x = x.clone() - x.mean_dim(2);
        let variance = x.clone().square().mean_dim(2);
        let normed = x / (variance + epsilon).sqrt();
        let y =
            normed * table::<B>(weight, accumulator(dtype)) + table::<B>(bias, accumulator(dtype));
        finish(y, shape, dtype)
    }

    pub(crate) fn rms_norm<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        silu: bool,
    ) -> FloatTensor<B> {
        let (shape, dtype) = (x.shape(), x.dtype());
        let x = grouped::<B>(x, 1);
        let channels = x.dims()[2];
        let weight = to_dtype(from_float::<B, 1>(weight), accumulator(dtype));
        let weight = weight.reshape([1, 1, channels]) * (channels as f64).sqrt();
        let squared_norm = x.clone().square().sum_dim(2);
        let y = x / squared_norm.clamp_min(MIN_SQUARED_NORM).sqrt() * weight;
        if !silu {
            return finish(y, shape, dtype);
        }
        let y = to_dtype(to_dtype(y, dtype), accumulator(dtype));
        finish(y.clone() * sigmoid(y), shape, dtype)
    }

    /// With x̂ = √C · x / |x|, y = weight · x̂ and g the gradient of y: d_weight = Σ g · x̂ and
    /// dx = √C / |x| · (h − x̂ · mean(h · x̂)) where h = weight · g. Where the norm is at its bound, it
    /// is a constant.
    pub(crate) fn rms_norm_backward<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        d_out: FloatTensor<B>,
        silu: bool,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (shape, dtype) = (x.shape(), x.dtype());
        let x = grouped::<B>(x, 1);
        let channels = x.dims()[2];
        let weight_dtype = weight.dtype();
        let weight = to_dtype(from_float::<B, 1>(weight), accumulator(dtype));
        let weight = weight.reshape([1, 1, channels]);
        let squared_norm = x.clone().square().sum_dim(2);
        let free = squared_norm.clone().greater_elem(MIN_SQUARED_NORM);
        let factor =
            squared_norm.clamp_min(MIN_SQUARED_NORM).sqrt().recip() * (channels as f64).sqrt();
        let normed = x * factor.clone();
        let mut g = grouped::<B>(d_out, 1);
        if silu {
            let y = normed.clone() * weight.clone();
            let s = sigmoid(y.clone());
            // d silu(y) = s + y · s · (1 − s).
            g = g * (s.clone() + y * s.clone() * (s.neg() + 1.0));
        }
        let d_weight = (g.clone() * normed.clone()).sum_dim(1);
        let h = g * weight;
        let along = (h.clone() * normed.clone()).mean_dim(2) * free.float().cast(h.dtype());
        let d_x = (h - normed * along) * factor;
        (
            finish(d_x, shape, dtype),
            into_float(to_dtype(d_weight.reshape([channels]), weight_dtype)),
        )
    }

    pub(crate) fn gated_residual<B: Backend>(
        x: FloatTensor<B>,
        y: FloatTensor<B>,
        gate: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let (shape, dtype) = (x.shape(), x.dtype());
        let groups = gate.shape()[0];
        let y = grouped::<B>(y, groups) * table::<B>(gate, accumulator(dtype));
        finish(grouped::<B>(x, groups) + y, shape, dtype)
    }

    /// Sums over the rows of each group, `[groups, C]` in f32.
    pub(crate) fn group_sums<B: Backend>(x: FloatTensor<B>, groups: usize) -> FloatTensor<B> {
        into_float(grouped::<B>(x, groups).sum_dim(1).squeeze_dim::<2>(1))
    }

    /// Sums of `x · y` over the rows of each group, `[groups, C]` in f32: the gradient of a table.
    pub(crate) fn product_sums<B: Backend>(
        x: FloatTensor<B>,
        y: FloatTensor<B>,
        groups: usize,
    ) -> FloatTensor<B> {
        let products = grouped::<B>(x, groups) * grouped::<B>(y, groups);
        into_float(products.sum_dim(1).squeeze_dim::<2>(1))
    }

    /// The gradient of the norm's weight in [`split_heads`]: the normed heads times the gradient
    /// turned back, summed by channel.
    pub(crate) fn head_norm_backward<B: KernelBackend>(
        x: FloatTensor<B>,
        part: usize,
        (weight, epsilon): (FloatTensor<B>, f64),
        rotation: Option<(FloatTensor<B>, FloatTensor<B>)>,
        d_out: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let ones = into_float(from_float::<B, 1>(weight).ones_like());
        let normed = B::split_heads(x, part, Some((ones, epsilon)), None);
        let dtype = accumulator(normed.dtype());
        let mut g: Tensor<B, 4> = to_dtype(from_float(d_out), dtype);
        if let Some((cos, sin)) = rotation {
            g = rotated(g, cos, B::float_neg(sin));
        }
        let width = g.dims()[3];
        let sums = product_sums::<B>(into_float(g), normed, 1);
        B::float_reshape(sums, Shape::new([width]))
    }

    pub(crate) fn gated<B: Backend>(y: FloatTensor<B>, gate: FloatTensor<B>) -> FloatTensor<B> {
        let (shape, dtype) = (y.shape(), y.dtype());
        let groups = gate.shape()[0];
        let gated = grouped::<B>(y, groups) * table::<B>(gate, accumulator(dtype));
        finish(gated, shape, dtype)
    }

    pub(crate) fn silu_mul<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
        let (shape, dtype) = (a.shape(), a.dtype());
        let a = grouped::<B>(a, 1);
        let gate = to_dtype(to_dtype(a.clone() * sigmoid(a), dtype), accumulator(dtype));
        finish(gate * grouped::<B>(b, 1), shape, dtype)
    }

    /// silu'(a) = σ(a) · (1 + a · (1 − σ(a))).
    pub(crate) fn silu_mul_backward<B: Backend>(
        a: FloatTensor<B>,
        b: FloatTensor<B>,
        d_out: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (shape, dtype) = (a.shape(), a.dtype());
        let [a, b, d_out] = [a, b, d_out].map(|x| grouped::<B>(x, 1));
        let gate = sigmoid(a.clone());
        let slope = gate.clone() * (a.clone() * (gate.clone().neg() + 1.0) + 1.0);
        let d_a = finish(d_out.clone() * b * slope, shape.clone(), dtype);
        (d_a, finish(d_out * a * gate, shape, dtype))
    }

    pub(crate) fn split_heads<B: Backend>(
        x: FloatTensor<B>,
        part: usize,
        norm: Option<(FloatTensor<B>, f64)>,
        rotation: Option<(FloatTensor<B>, FloatTensor<B>)>,
    ) -> FloatTensor<B> {
        let dtype = x.dtype();
        let x: Tensor<B, 5> = from_float(x);
        let [batch, tokens, _, heads, width] = x.dims();
        let mut x = x
            .narrow(2, part, 1)
            .reshape([batch, tokens, heads, width])
            .swap_dims(1, 2);
        if let Some((weight, epsilon)) = norm {
            let wide_x = to_dtype(x, accumulator(dtype));
            let mean = wide_x.clone().square().mean_dim(3);
            let weight = to_dtype(from_float::<B, 1>(weight), accumulator(dtype));
            x = to_dtype(wide_x / (mean + epsilon).sqrt() * weight.unsqueeze(), dtype);
        }
        if let Some((cos, sin)) = rotation {
            x = to_dtype(rotated(to_dtype(x, accumulator(dtype)), cos, sin), dtype);
        }
        into_float(x)
    }

    /// With x̂ the normalised row and g = weight · d_out:
    /// dx = (g − mean(g) − x̂ · mean(g · x̂)) / deviation.
    pub(crate) fn layer_norm_backward<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        d_out: FloatTensor<B>,
        epsilon: f64,
    ) -> FloatTensor<B> {
        let (shape, dtype) = (x.shape(), x.dtype());
        let groups = weight.shape()[0];
        let x = grouped::<B>(x, groups);
        let x = x.clone() - x.mean_dim(2);
        let deviation = (x.clone().square().mean_dim(2) + epsilon).sqrt();
        let normed = x / deviation.clone();
        let g = grouped::<B>(d_out, groups) * table::<B>(weight, accumulator(dtype));
        let along = (g.clone() * normed.clone()).mean_dim(2);
        let dx = (g.clone() - g.mean_dim(2) - normed * along) / deviation;
        finish(dx, shape, dtype)
    }

    pub(crate) fn split_heads_backward<B: Backend>(
        x: FloatTensor<B>,
        part: usize,
        norm: Option<(FloatTensor<B>, f64)>,
        rotation: Option<(FloatTensor<B>, FloatTensor<B>)>,
        d_out: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let dtype = x.dtype();
        let x: Tensor<B, 5> = from_float(x);
        let [batch, tokens, _, heads, width] = x.dims();
        let mut g: Tensor<B, 4> = to_dtype(from_float(d_out), accumulator(dtype));
        if let Some((cos, sin)) = rotation {
            // The rotation's transpose: by the opposite angle.
            let sin = B::float_neg(sin);
            g = rotated(g, cos, sin);
        }
        if let Some((weight, epsilon)) = norm {
            let x = x.narrow(2, part, 1).reshape([batch, tokens, heads, width]);
            let x = to_dtype(x.swap_dims(1, 2), accumulator(dtype));
            let root = (x.clone().square().mean_dim(3) + epsilon).sqrt();
            let normed = x / root.clone();
            let weight = to_dtype(from_float::<B, 1>(weight), accumulator(dtype));
            let scaled = g * weight.unsqueeze();
            let along = (scaled.clone() * normed.clone()).mean_dim(3);
            g = (scaled - normed * along) / root;
        }
        into_float(to_dtype(g.swap_dims(1, 2), dtype))
    }

    /// `[B, H, T, D]` with its interleaved pairs turned, in the dtype it has.
    fn rotated<B: Backend>(
        x: Tensor<B, 4>,
        cos: FloatTensor<B>,
        sin: FloatTensor<B>,
    ) -> Tensor<B, 4> {
        let [batch, heads, tokens, width] = x.dims();
        let dtype = x.dtype();
        let table = |table: FloatTensor<B>| {
            let table = to_dtype(from_float::<B, 2>(table), dtype);
            table.reshape([1, 1, tokens, width / 2, 1])
        };
        let (cos, sin) = (table(cos), table(sin));
        let pairs = x.reshape([batch, heads, tokens, width / 2, 2]);
        let even = pairs.clone().narrow(4, 0, 1);
        let odd = pairs.narrow(4, 1, 1);
        let turned = vec![
            even.clone() * cos.clone() - odd.clone() * sin.clone(),
            odd * cos + even * sin,
        ];
        Tensor::cat(turned, 4).reshape([batch, heads, tokens, width])
    }
}
