//! Modulated normalisation and gated residuals per frame, the fp32 islands of the official code.

use burn::module::{Initializer, Module};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{KernelBackend, layer_norm};
use longcat_lora::{LoraLinear, LoraVector};

use crate::input::Input;

/// Epsilon of every normalisation in the transformer.
pub(crate) const EPSILON: f64 = 1e-6;

/// LayerNorm without weights in fp32, then `·(1 + scale) + shift` per frame, back in the dtype of
/// `x`. `x` is `[B, T·S, C]`; `shift` and `scale` are `[B, T, C]` in fp32.
pub(crate) fn norm_modulate<B: KernelBackend>(
    x: Tensor<B, 3>,
    shift: Tensor<B, 3>,
    scale: Tensor<B, 3>,
) -> Tensor<B, 3> {
    layer_norm(x, table(scale + 1.0), table(shift), EPSILON)
}

/// [`norm_modulate`] for some layers.
pub(crate) fn modulated_for<B: KernelBackend>(
    layers: &[&LoraLinear<B>],
    x: Tensor<B, 3>,
    shift: Tensor<B, 3>,
    scale: Tensor<B, 3>,
) -> Input<B> {
    Input::normed(x, [table(scale + 1.0), table(shift)], EPSILON, layers)
}

/// `x + gate · y` in fp32, back in the dtype of `x`. `gate` is `[B, T, C]` in fp32.
pub(crate) fn gated_residual<B: KernelBackend>(
    x: Tensor<B, 3>,
    y: Tensor<B, 3>,
    gate: Tensor<B, 3>,
) -> Tensor<B, 3> {
    longcat_kernels::gated_residual(x, y, table(gate))
}

/// LayerNorm with a weight and a bias `[C]`, in fp32, back in the dtype of its input.
#[derive(Module, Debug)]
pub(crate) struct AffineNorm<B: Backend> {
    pub(crate) gamma: LoraVector<B>,
    pub(crate) beta: LoraVector<B>,
}

impl<B: Backend> AffineNorm<B> {
    pub(crate) fn new(width: usize, device: &B::Device) -> Self {
        Self {
            gamma: LoraVector::new(Initializer::Ones.init([width], device)),
            beta: LoraVector::new(Initializer::Zeros.init([width], device)),
        }
    }
}

impl<B: KernelBackend> AffineNorm<B> {
    pub(crate) fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [gamma, beta] = self.tables();
        layer_norm(x, gamma, beta, EPSILON)
    }

    /// The same for a layer.
    pub(crate) fn forward_for(&self, layer: &LoraLinear<B>, x: Tensor<B, 3>) -> Input<B> {
        Input::normed(x, self.tables(), EPSILON, &[layer])
    }

    fn tables(&self) -> [Tensor<B, 2>; 2] {
        [&self.gamma, &self.beta].map(|x| x.val().cast(DType::F32).unsqueeze::<2>())
    }
}

/// One row per frame.
fn table<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 2> {
    x.flatten(0, 1)
}
