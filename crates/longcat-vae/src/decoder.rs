//! The decoder network: latents to pixels.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::KernelBackend;

use crate::WanVaeConfig;
use crate::blocks::{MidBlock, ResidualBlock};
use crate::cache::FrameCache;
use crate::layers::{CausalConv3d, RmsNorm};
use crate::resample::Upsample;

/// The residual blocks of one resolution, then the way to the next.
#[derive(Module, Debug)]
pub(crate) struct UpBlock<B: Backend> {
    resnets: Vec<ResidualBlock<B>>,
    upsamplers: Vec<Upsample<B>>,
}

impl<B: KernelBackend> UpBlock<B> {
    fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let x = self
            .resnets
            .iter()
            .fold(x, |x, block| block.forward(x, cache));
        self.upsamplers
            .iter()
            .fold(x, |x, block| block.forward(x, cache))
    }
}

/// Latents to pixels.
#[derive(Module, Debug)]
pub(crate) struct Decoder<B: Backend> {
    conv_in: CausalConv3d<B>,
    mid_block: MidBlock<B>,
    up_blocks: Vec<UpBlock<B>>,
    norm_out: RmsNorm<B, 4>,
    conv_out: CausalConv3d<B>,
}

impl<B: Backend> Decoder<B> {
    pub(crate) fn new(config: &WanVaeConfig, device: &B::Device) -> Self {
        let levels = config.dim_mult.len();
        let top = config.decoder_base_dim * config.dim_mult[levels - 1];
        let mut width = top;
        let mut up_blocks = Vec::new();
        for level in (0..levels).rev() {
            let output = config.decoder_base_dim * config.dim_mult[level];
            let resnets = (0..=config.num_res_blocks)
                .map(|i| {
                    let input = if i == 0 { width } else { output };
                    ResidualBlock::new(input, output, device)
                })
                .collect();
            let mut upsamplers = Vec::new();
            if level > 0 {
                let temporal = config.temperal_downsample[level - 1];
                upsamplers.push(Upsample::new(output, temporal, device));
                width = output / 2;
            } else {
                width = output;
            }
            up_blocks.push(UpBlock {
                resnets,
                upsamplers,
            });
        }
        Self {
            conv_in: CausalConv3d::new([config.z_dim, top], [3; 3], device),
            mid_block: MidBlock::new(top, device),
            up_blocks,
            norm_out: RmsNorm::new(width, device),
            conv_out: CausalConv3d::new([width, config.out_channels], [3; 3], device),
        }
    }
}

impl<B: KernelBackend> Decoder<B> {
    /// The next latent frames `[B, T, h, w, z]` of a clip to pixels `[B, F, H, W, 3]`.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let x = self.conv_in.forward(x, cache);
        let x = self.mid_block.forward(x, cache);
        let x = self
            .up_blocks
            .iter()
            .fold(x, |x, block| block.forward(x, cache));
        self.conv_out.forward(self.norm_out.forward_silu(x), cache)
    }
}
