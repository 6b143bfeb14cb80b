use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

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

    /// `[B, C, T, H, W]` to `[B, C, T', H/2, W/2]`. With a `time_conv`, T is odd (T' = (T+1)/2) in
    /// the first chunk and even (T' = T/2) in the others.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        // One row below and one column to the right: not the symmetric padding of `conv3d`.
        let x = x.pad([(0, 0), (0, 0), (0, 0), (0, 1), (0, 1)], 0.0);
        let x = self.resample.forward(x, 2, 0);
        let Some(time_conv) = &self.time_conv else {
            return x;
        };
        let frames = x.dims()[2];
        let last = x.clone().narrow(2, frames - 1, 1);
        let previous = cache.slot().replace(last);
        let halve = |x| time_conv.convolve(x, [2, 1, 1], [0; 3]);
        match previous {
            Some(previous) => halve(Tensor::cat(vec![previous, x], 2)),
            None if frames == 1 => x,
            None => Tensor::cat(vec![x.clone().narrow(2, 0, 1), halve(x)], 2),
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

    /// `[B, C, T, H, W]` to `[B, C/2, T', 2H, 2W]`. With a `time_conv`, T' = 2T − 1 in the first
    /// chunk and 2T in the others.
    pub(crate) fn forward(&self, x: Tensor<B, 5>, cache: &mut FrameCache<B>) -> Tensor<B, 5> {
        let x = match &self.time_conv {
            None => x,
            Some(time_conv) if cache.is_first() => match x.dims()[2] {
                1 => {
                    cache.slot();
                    x
                }
                frames => {
                    let rest = x.clone().narrow(2, 1, frames - 1);
                    let rest = interleave(time_conv.forward(rest, cache));
                    Tensor::cat(vec![x.narrow(2, 0, 1), rest], 2)
                }
            },
            Some(time_conv) => interleave(time_conv.forward(x, cache)),
        };
        self.resample.forward(double_size(x), 1, 1)
    }
}

/// `[B, 2C, T, H, W]` to `[B, C, 2T, H, W]`: the first half of the channels are the even frames.
fn interleave<B: Backend>(x: Tensor<B, 5>) -> Tensor<B, 5> {
    let [b, c, t, h, w] = x.dims();
    x.reshape([b, 2, c / 2, t, h, w])
        .permute([0, 2, 3, 1, 4, 5])
        .reshape([b, c / 2, 2 * t, h, w])
}

/// Every pixel becomes a square of four (nearest-exact and nearest agree at a factor of 2).
fn double_size<B: Backend>(x: Tensor<B, 5>) -> Tensor<B, 5> {
    let [b, c, t, h, w] = x.dims();
    interpolate(
        x.reshape([b, c * t, h, w]),
        [2 * h, 2 * w],
        InterpolateOptions::new(InterpolateMode::Nearest),
    )
    .reshape([b, c, t, 2 * h, 2 * w])
}
