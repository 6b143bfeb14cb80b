//! The encoder network: pixels to the moments of the posterior.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::KernelBackend;

use crate::WanVaeConfig;
use crate::blocks::{MidBlock, ResidualBlock};
use crate::cache::FrameCache;
use crate::layers::{CausalConv3d, RmsNorm};
use crate::resample::Downsample;

/// One entry of the encoder's flat list of blocks.
// There are about a dozen, and modules do not live in boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub(crate) enum DownBlock<B: Backend> {
    Residual(ResidualBlock<B>),
    Downsample(Downsample<B>),
}

/// Pixels to the moments of the posterior.
#[derive(Module, Debug)]
pub(crate) struct Encoder<B: Backend> {
    pub(crate) conv_in: CausalConv3d<B>,
    down_blocks: Vec<DownBlock<B>>,
    mid_block: MidBlock<B>,
    norm_out: RmsNorm<B, 4>,
    conv_out: CausalConv3d<B>,
}

impl<B: Backend> Encoder<B> {
    pub(crate) fn new(config: &WanVaeConfig, device: &B::Device) -> Self {
        let mut width = config.base_dim;
        let conv_in = CausalConv3d::new([config.in_channels, width], [3; 3], device);
        let mut down_blocks = Vec::new();
        for (level, mult) in config.dim_mult.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                let output = config.base_dim * mult;
                down_blocks.push(DownBlock::Residual(ResidualBlock::new(
                    width, output, device,
                )));
                width = output;
            }
            if let Some(temporal) = config.temperal_downsample.get(level) {
                down_blocks.push(DownBlock::Downsample(Downsample::new(
                    width, *temporal, device,
                )));
            }
        }
        Self {
            conv_in,
            down_blocks,
            mid_block: MidBlock::new(width, device),
            norm_out: RmsNorm::new(width, device),
            conv_out: CausalConv3d::new([width, 2 * config.z_dim], [3; 3], device),
        }
    }
}

impl<B: KernelBackend> Encoder<B> {
    /// The next chunk `[B, F, H, W, 3]` of a clip to `[B, T, h, w, 2z]`.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let x = self.conv_in.forward(x, cache);
        let x = self.down_blocks.iter().fold(x, |x, block| match block {
            DownBlock::Residual(block) => block.forward(x, cache),
            DownBlock::Downsample(block) => block.forward(x, cache),
        });
        let x = self.mid_block.forward(x, cache);
        self.conv_out.forward(self.norm_out.forward_silu(x), cache)
    }
}
