//! What linear layers read: floats, or rows that the kernel before rounded to fp8.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::{
    KernelBackend, QuantizedRows, merge_heads, quantize_heads, silu_mul, silu_mul_quantized,
};
use longcat_lora::LoraLinear;

/// Tokens `[B, N, C]` on their way into linear layers.
#[derive(Debug, Clone)]
pub(crate) enum Input<B: Backend> {
    Floats(Tensor<B, 3>),
    Quantized(QuantizedRows<B, 3>),
}

impl<B: KernelBackend> Input<B> {
    /// Outputs of all heads `[B, H, N, D]` side by side.
    pub(crate) fn heads(x: Tensor<B, 4>, layer: &LoraLinear<B>) -> Self {
        match layer.takes_quantized() {
            true => Self::Quantized(quantize_heads(x)),
            false => Self::Floats(merge_heads(x)),
        }
    }

    /// `silu(a) · b`.
    pub(crate) fn gated(a: Tensor<B, 3>, b: Tensor<B, 3>, layer: &LoraLinear<B>) -> Self {
        match layer.takes_quantized() {
            true => Self::Quantized(silu_mul_quantized(a, b)),
            false => Self::Floats(silu_mul(a, b)),
        }
    }

    /// The tokens through a layer.
    pub(crate) fn through(self, layer: &LoraLinear<B>) -> Tensor<B, 3> {
        match self {
            Self::Floats(x) => layer.forward(x),
            Self::Quantized(x) => layer.forward_quantized(&x),
        }
    }

    /// `[B, N, C]`.
    pub(crate) fn dims(&self) -> [usize; 3] {
        match self {
            Self::Floats(x) => x.dims(),
            Self::Quantized(x) => x.dims,
        }
    }
}
