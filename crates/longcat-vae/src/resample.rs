//! Changes of resolution in space and time.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::{Conv3dOptions, KernelBackend};

use crate::cache::FrameCache;
use crate::layers::{CausalConv3d, FrameConv};

/// Halves height and width, and in time turns every two frames into one if it has a `time_conv`.
///
/// The first frame of a clip is a group of its own and is not convolved in time.
#[derive(Module, Debug)]
pub(crate) struct Downsample<B: Backend> {
    resample: FrameConv<B>,
    time_conv: Option<CausalConv3d<B>>,
}

impl<B: Backend> Downsample<B> {
    pub(crate) fn new(channels: usize, temporal: bool, device: &B::Device) -> Self {
        let pair = [channels, channels];
        Self {
            resample: FrameConv::new(pair, [3, 3], device),
            time_conv: temporal.then(|| CausalConv3d::new(pair, [3, 1, 1], device)),
        }
    }
}

impl<B: KernelBackend> Downsample<B> {
    /// `[B, T, H, W, C]` to `[B, T', H/2, W/2, C]`. With a `time_conv`, T is odd (T' = (T+1)/2) in
    /// the first chunk and even (T' = T/2) in the others.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let halve = Conv3dOptions {
            stride: [1, 2, 2],
            padding: [[0, 0], [0, 1], [0, 1]],
            ..Conv3dOptions::default()
        };
        let x = self.resample.forward(x, halve);
        let Some(time_conv) = &self.time_conv else {
            return x;
        };
        let frames = x.dims()[1];
        let previous = cache.recall();
        cache.remember(|| x.clone().narrow(1, frames - 1, 1));
        let pairs = Conv3dOptions {
            stride: [2, 1, 1],
            ..Conv3dOptions::default()
        };
        match previous {
            Some(previous) => time_conv.convolve(Tensor::cat(vec![previous, x], 1), pairs),
            None if frames == 1 => x,
            None => {
                let first = x.clone().narrow(1, 0, 1);
                Tensor::cat(vec![first, time_conv.convolve(x, pairs)], 1)
            }
        }
    }
}

/// Doubles height and width while halving the channels; before that, a `time_conv` turns every
/// frame into two.
///
/// The first frame of a clip is not doubled, and is invisible to the `time_conv`.
#[derive(Module, Debug)]
pub(crate) struct Upsample<B: Backend> {
    resample: FrameConv<B>,
    time_conv: Option<CausalConv3d<B>>,
}

impl<B: Backend> Upsample<B> {
    pub(crate) fn new(channels: usize, temporal: bool, device: &B::Device) -> Self {
        Self {
            resample: FrameConv::new([channels, channels / 2], [3, 3], device),
            time_conv: temporal
                .then(|| CausalConv3d::new([channels, 2 * channels], [3, 1, 1], device)),
        }
    }
}

impl<B: KernelBackend> Upsample<B> {
    /// `[B, T, H, W, C]` to `[B, T', 2H, 2W, C/2]`. With a `time_conv`, T' = 2T − 1 in the first
    /// chunk and 2T in the others.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let x = match &self.time_conv {
            None => x,
            Some(time_conv) if cache.is_first() => match x.dims()[1] {
                1 => {
                    cache.recall();
                    x
                }
                frames => {
                    let rest = x.clone().narrow(1, 1, frames - 1);
                    let rest = interleave(time_conv.forward(rest, cache));
                    Tensor::cat(vec![x.narrow(1, 0, 1), rest], 1)
                }
            },
            Some(time_conv) => interleave(time_conv.forward(x, cache)),
        };
        // Every pixel becomes a square of four: nearest-exact and nearest agree at a factor of 2.
        let double = Conv3dOptions {
            padding: [[0; 2], [1; 2], [1; 2]],
            upsample: [1, 2, 2],
            ..Conv3dOptions::default()
        };
        self.resample.forward(x, double)
    }
}

/// `[B, T, H, W, 2C]` to `[B, 2T, H, W, C]`: the first half of the channels are the even frames.
fn interleave<B: Backend>(x: Tensor<B, 5>) -> Tensor<B, 5> {
    let [b, t, h, w, c] = x.dims();
    x.reshape([b, t, h, w, 2, c / 2])
        .permute([0, 1, 4, 2, 3, 5])
        .reshape([b, 2 * t, h, w, c / 2])
}
