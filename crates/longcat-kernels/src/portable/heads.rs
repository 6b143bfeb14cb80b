//! Portable bodies of the split into heads.

use burn::tensor::{Tensor, backend::Backend};
use burn_backend::{Shape, TensorMetadata, tensor::FloatTensor};

use super::groups::product_sums;
use super::{accumulator, from_float, into_float, to_dtype};
use crate::KernelBackend;

/// See [`KernelBackend::permute`].
pub fn permute<B: Backend>(x: FloatTensor<B>, axes: &[usize]) -> FloatTensor<B> {
    B::float_permute(x, axes)
}

/// See [`KernelBackend::split_heads_forward`](crate::KernelBackend::split_heads_forward).
pub fn split_heads_forward<B: Backend>(
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

/// See [`KernelBackend::split_heads_x_backward`](crate::KernelBackend::split_heads_x_backward).
pub fn split_heads_x_backward<B: Backend>(
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

/// See [`KernelBackend::split_heads_weight_backward`](crate::KernelBackend::split_heads_weight_backward).
///
/// The normed heads times the gradient turned back, summed by channel.
pub fn split_heads_weight_backward<B: KernelBackend>(
    x: FloatTensor<B>,
    part: usize,
    (weight, epsilon): (FloatTensor<B>, f64),
    rotation: Option<(FloatTensor<B>, FloatTensor<B>)>,
    d_out: FloatTensor<B>,
) -> FloatTensor<B> {
    let ones = into_float(from_float::<B, 1>(weight).ones_like());
    let normed = B::split_heads_forward(x, part, Some((ones, epsilon)), None);
    let dtype = accumulator(normed.dtype());
    let mut g: Tensor<B, 4> = to_dtype(from_float(d_out), dtype);
    if let Some((cos, sin)) = rotation {
        g = rotated(g, cos, B::float_neg(sin));
    }
    let width = g.dims()[3];
    let sums = product_sums::<B>(into_float(g), normed, 1);
    B::float_reshape(sums, Shape::new([width]))
}

/// `[B, H, T, D]` with its interleaved pairs turned, in the dtype it has.
fn rotated<B: Backend>(x: Tensor<B, 4>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> Tensor<B, 4> {
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
