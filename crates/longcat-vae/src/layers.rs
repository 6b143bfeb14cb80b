//! Convolutions and the norm.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{Conv3dOptions, KernelBackend, conv3d, rms_norm};

use crate::cache::FrameCache;

/// A convolution over time and space whose output at a frame sees that frame and those before it.
///
/// Stride 1; space is padded with zeros so that it keeps its size.
#[derive(Module, Debug)]
pub(crate) struct CausalConv3d<B: Backend> {
    /// `[out, in, kt, kh, kw]`.
    pub(crate) weight: Param<Tensor<B, 5>>,
    /// `[out]`.
    pub(crate) bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> CausalConv3d<B> {
    pub(crate) fn new(
        [input, output]: [usize; 2],
        [kt, kh, kw]: [usize; 3],
        device: &B::Device,
    ) -> Self {
        let fan_in = input * kt * kh * kw;
        Self {
            weight: uniform([output, input, kt, kh, kw], fan_in, device),
            bias: uniform([output], fan_in, device),
        }
    }
}

impl<B: KernelBackend> CausalConv3d<B> {
    /// `[B, T, H, W, in]` to `[B, T, H, W, out]`.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let [_, _, kt, kh, kw] = self.weight.dims();
        let (x, missing) = match kt {
            1 => (x, 0),
            _ => cache.extend(x, kt - 1),
        };
        let options = Conv3dOptions {
            padding: [[missing, 0], [kh / 2; 2], [kw / 2; 2]],
            ..Conv3dOptions::default()
        };
        self.convolve(x, options)
    }

    /// The bare convolution.
    pub(crate) fn convolve(&self, x: Tensor<B, 5>, options: Conv3dOptions) -> Tensor<B, 5> {
        convolve(x, self.weight.val(), self.bias.val(), options)
    }
}

/// A convolution in the dtype of `x`, whatever that of the weights is.
fn convolve<B: KernelBackend>(
    x: Tensor<B, 5>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    options: Conv3dOptions,
) -> Tensor<B, 5> {
    let dtype = x.dtype();
    if weight.dtype() == dtype {
        return conv3d(x, weight, bias, options);
    }
    conv3d(x, weight.cast(dtype), bias.cast(dtype), options)
}

/// A convolution of every frame by itself; weights `[out, in, kh, kw]` as 2D convolutions have.
#[derive(Module, Debug)]
pub(crate) struct FrameConv<B: Backend> {
    /// `[out, in, kh, kw]`.
    pub(crate) weight: Param<Tensor<B, 4>>,
    /// `[out]`.
    pub(crate) bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> FrameConv<B> {
    pub(crate) fn new(
        [input, output]: [usize; 2],
        [kh, kw]: [usize; 2],
        device: &B::Device,
    ) -> Self {
        let fan_in = input * kh * kw;
        Self {
            weight: uniform([output, input, kh, kw], fan_in, device),
            bias: uniform([output], fan_in, device),
        }
    }
}

impl<B: KernelBackend> FrameConv<B> {
    /// `[B, T, H, W, in]` to `[B, T, H', W', out]`.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, options: Conv3dOptions) -> Tensor<B, 5> {
        let weight = self.weight.val().unsqueeze_dim(2);
        convolve(x, weight, self.bias.val(), options)
    }
}

/// Scales the channels of every position to a root mean square of 1, then by `gamma`; in f32.
///
/// `D` is the rank of `gamma`: 4 (`[C, 1, 1, 1]`) before 3D convolutions, 3 in attention.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm<B: Backend, const D: usize> {
    gamma: Param<Tensor<B, D>>,
}

impl<B: Backend, const D: usize> RmsNorm<B, D> {
    pub(crate) fn new(channels: usize, device: &B::Device) -> Self {
        let mut shape = [1; D];
        shape[0] = channels;
        Self {
            gamma: Initializer::Ones.init(shape, device),
        }
    }
}

impl<B: KernelBackend, const D: usize> RmsNorm<B, D> {
    /// `[B, T, H, W, C]`, same shape and dtype out.
    pub(crate) fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        self.apply(x, false)
    }

    /// As [`Self::forward`], then SiLU.
    pub(crate) fn forward_silu(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        self.apply(x, true)
    }

    fn apply(&self, x: Tensor<B, 5>, silu: bool) -> Tensor<B, 5> {
        let gamma = self.gamma.val().cast(DType::F32).flatten(0, D - 1);
        rms_norm(x, gamma, silu)
    }
}

/// Uniform in ±1/√fan_in, as the reference initialises convolutions.
fn uniform<B: Backend, const D: usize>(
    shape: [usize; D],
    fan_in: usize,
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    let bound = (fan_in as f64).powf(-0.5);
    Initializer::Uniform {
        min: -bound,
        max: bound,
    }
    .init(shape, device)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use burn::backend::Autodiff;
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    type TestBackend = Autodiff<Flex>;

    #[test]
    fn norm_makes_the_root_mean_square_one() {
        let norm = RmsNorm::<TestBackend, 4>::new(2, &FlexDevice);
        let x = Tensor::<TestBackend, 1>::from_floats([3.0, 4.0, -6.0, 8.0], &FlexDevice);
        let y = norm.forward(x.reshape([1, 1, 1, 2, 2]));
        // Positions (3, 4) and (-6, 8); √2 · 3/5 = 0.8485…
        let expected = [0.848_528, 1.131_371, -0.848_528, 1.131_371];
        for (y, e) in y.into_data().iter::<f32>().zip(expected) {
            assert!((y - e).abs() < 1e-5, "{y} {e}");
        }
    }

    #[test]
    fn norm_of_nothing_is_zero_with_a_finite_gradient() {
        let norm = RmsNorm::<TestBackend, 4>::new(3, &FlexDevice);
        let x = Tensor::<TestBackend, 5>::zeros([1, 1, 1, 2, 3], &FlexDevice).require_grad();
        let y = norm.forward(x.clone());
        assert!(y.to_data().iter::<f32>().all(|v| v == 0.0));
        let gradients = y.sum().backward();
        let gradient = x.grad(&gradients).unwrap().into_data();
        assert!(gradient.iter::<f32>().all(f32::is_finite));
    }
}
