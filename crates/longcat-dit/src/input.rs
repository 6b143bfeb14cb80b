//! What linear layers read: floats, or rows that the kernel before rounded to fp8.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::{
    KernelBackend, QuantizedRows, layer_norm, layer_norm_quantized, layer_norm_with_quantized,
    merge_heads, merge_heads_with_quantized, quantize_heads, silu_mul, silu_mul_quantized,
    silu_mul_with_quantized,
};
use longcat_lora::LoraLinear;

/// Tokens `[B, N, C]` on their way into linear layers.
#[derive(Debug, Clone)]
pub(crate) enum Input<B: Backend> {
    Floats(Tensor<B, 3>),
    Quantized(QuantizedRows<B, 3>),
    /// Both: the weights take rounded rows, and adapters floats.
    Both(Tensor<B, 3>, QuantizedRows<B, 3>),
}

/// What layers want to read.
enum Wanted {
    Floats,
    Quantized,
    Both,
}

impl Wanted {
    fn by<B: KernelBackend>(layers: &[&LoraLinear<B>]) -> Self {
        if !layers.iter().all(|layer| layer.takes_quantized()) {
            return Self::Floats;
        }
        match layers.iter().any(|layer| layer.needs_floats()) {
            true => Self::Both,
            false => Self::Quantized,
        }
    }
}

impl<B: KernelBackend> Input<B> {
    /// Normalised tokens for some layers, `norm(x) · weight + bias` with a row of the tables for each frame or
    /// for all.
    pub(crate) fn normed(
        x: Tensor<B, 3>,
        [weight, bias]: [Tensor<B, 2>; 2],
        epsilon: f64,
        layers: &[&LoraLinear<B>],
    ) -> Self {
        match Wanted::by(layers) {
            Wanted::Floats => Self::Floats(layer_norm(x, weight, bias, epsilon)),
            Wanted::Quantized => Self::Quantized(layer_norm_quantized(x, weight, bias, epsilon)),
            Wanted::Both => Self::both(layer_norm_with_quantized(x, weight, bias, epsilon)),
        }
    }

    /// Outputs of all heads `[B, H, N, D]` side by side, for a layer.
    pub(crate) fn heads(x: Tensor<B, 4>, layer: &LoraLinear<B>) -> Self {
        match Wanted::by(&[layer]) {
            Wanted::Floats => Self::Floats(merge_heads(x)),
            Wanted::Quantized => Self::Quantized(quantize_heads(x)),
            Wanted::Both => Self::both(merge_heads_with_quantized(x)),
        }
    }

    /// `silu(a) · b`, for a layer.
    pub(crate) fn gated(a: Tensor<B, 3>, b: Tensor<B, 3>, layer: &LoraLinear<B>) -> Self {
        match Wanted::by(&[layer]) {
            Wanted::Floats => Self::Floats(silu_mul(a, b)),
            Wanted::Quantized => Self::Quantized(silu_mul_quantized(a, b)),
            Wanted::Both => Self::both(silu_mul_with_quantized(a, b)),
        }
    }

    fn both((floats, rows): (Tensor<B, 3>, QuantizedRows<B, 3>)) -> Self {
        Self::Both(floats, rows)
    }

    /// The tokens through a layer.
    pub(crate) fn through(self, layer: &LoraLinear<B>) -> Tensor<B, 3> {
        match self {
            Self::Floats(x) => layer.forward(x),
            Self::Quantized(x) => layer.forward_quantized(&x, None),
            Self::Both(floats, x) => layer.forward_quantized(&x, Some(floats)),
        }
    }

    /// `[B, N, C]`.
    pub(crate) fn dims(&self) -> [usize; 3] {
        match self {
            Self::Floats(x) => x.dims(),
            Self::Quantized(x) | Self::Both(_, x) => x.dims,
        }
    }
}
