//! Residual and attention blocks.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::{Conv3dOptions, KernelBackend, attention};

use crate::cache::FrameCache;
use crate::layers::{CausalConv3d, FrameConv, RmsNorm};

/// Two causal convolutions beside a shortcut.
#[derive(Module, Debug)]
pub(crate) struct ResidualBlock<B: Backend> {
    norm1: RmsNorm<B, 4>,
    conv1: CausalConv3d<B>,
    norm2: RmsNorm<B, 4>,
    conv2: CausalConv3d<B>,
    conv_shortcut: Option<CausalConv3d<B>>,
}

impl<B: Backend> ResidualBlock<B> {
    pub(crate) fn new(input: usize, output: usize, device: &B::Device) -> Self {
        Self {
            norm1: RmsNorm::new(input, device),
            conv1: CausalConv3d::new([input, output], [3; 3], device),
            norm2: RmsNorm::new(output, device),
            conv2: CausalConv3d::new([output, output], [3; 3], device),
            conv_shortcut: (input != output)
                .then(|| CausalConv3d::new([input, output], [1; 3], device)),
        }
    }
}

impl<B: KernelBackend> ResidualBlock<B> {
    /// `[B, T, H, W, in]` to `[B, T, H, W, out]`.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward(x.clone(), cache),
            None => x.clone(),
        };
        let x = self.conv1.forward(self.norm1.forward_silu(x), cache);
        let x = self.conv2.forward(self.norm2.forward_silu(x), cache);
        x + shortcut
    }
}

/// Self-attention with one head over the positions of every frame by itself.
#[derive(Module, Debug)]
pub(crate) struct AttentionBlock<B: Backend> {
    norm: RmsNorm<B, 3>,
    to_qkv: FrameConv<B>,
    proj: FrameConv<B>,
}

impl<B: Backend> AttentionBlock<B> {
    pub(crate) fn new(channels: usize, device: &B::Device) -> Self {
        Self {
            norm: RmsNorm::new(channels, device),
            to_qkv: FrameConv::new([channels, 3 * channels], [1, 1], device),
            proj: FrameConv::new([channels, channels], [1, 1], device),
        }
    }
}

impl<B: KernelBackend> AttentionBlock<B> {
    /// `[B, T, H, W, C]`, same shape out.
    pub(crate) fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let [b, t, h, w, c] = x.dims();
        let pointwise = Conv3dOptions::default();
        let qkv = self.to_qkv.forward(self.norm.forward(x.clone()), pointwise);
        let head = |part: usize| {
            qkv.clone()
                .narrow(4, part * c, c)
                .reshape([b * t, 1, h * w, c])
        };
        let mixed = attention(head(0), head(1), head(2), (c as f64).powf(-0.5));
        self.proj.forward(mixed.reshape([b, t, h, w, c]), pointwise) + x
    }
}

/// The blocks at the smallest resolution: residual, attention, residual.
#[derive(Module, Debug)]
pub(crate) struct MidBlock<B: Backend> {
    attentions: Vec<AttentionBlock<B>>,
    resnets: Vec<ResidualBlock<B>>,
}

impl<B: Backend> MidBlock<B> {
    pub(crate) fn new(channels: usize, device: &B::Device) -> Self {
        Self {
            attentions: vec![AttentionBlock::new(channels, device)],
            resnets: (0..2)
                .map(|_| ResidualBlock::new(channels, channels, device))
                .collect(),
        }
    }
}

impl<B: KernelBackend> MidBlock<B> {
    /// `[B, T, H, W, C]`, same shape out.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let x = self.resnets[0].forward(x, cache);
        self.attentions
            .iter()
            .zip(&self.resnets[1..])
            .fold(x, |x, (attention, resnet)| {
                resnet.forward(attention.forward(x), cache)
            })
    }
}
