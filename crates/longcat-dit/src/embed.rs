//! The layers around the blocks: patches, timesteps and text in, patches out.

use burn::module::Module;
use burn::tensor::activation::{gelu_approximate, silu};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_lora::{LoraLinear, LoraLinearConfig};

use crate::norm::norm_modulate;
use crate::pieces::pieces;
use crate::{DitConfig, DitError};

const MAX_PERIOD: f64 = 10_000.0;

/// Latents to tokens: a convolution whose kernel equals its stride, which is a linear layer on
/// patches. Its weight is `[hidden, channels · patch]`, and the kernel's shape in files.
#[derive(Module, Debug)]
pub(crate) struct PatchEmbed<B: Backend> {
    pub(crate) proj: LoraLinear<B>,
    channels: usize,
    patch: [usize; 3],
}

impl<B: Backend> PatchEmbed<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let patch = config.patch_size;
        let inputs = config.in_channels * patch.iter().product::<usize>();
        Self {
            proj: LoraLinearConfig::new(inputs, config.hidden_size).init(device),
            channels: config.in_channels,
            patch,
        }
    }

    /// The dtype of the token stream: that of the bias, which is never packed.
    pub(crate) fn dtype(&self) -> DType {
        let bias = self.proj.bias.as_ref();
        bias.map_or(DType::F32, |bias| bias.val().dtype())
    }

    /// The token grid (T, H, W) of latents of this shape.
    pub(crate) fn grid(&self, shape: [usize; 5]) -> Result<[usize; 3], DitError> {
        let [_, channels, t, h, w] = shape;
        let (expected, [_, ph, pw]) = (self.channels, self.patch);
        if channels != expected || t == 0 || h == 0 || w == 0 || h % ph != 0 || w % pw != 0 {
            return Err(DitError::Shape {
                input: "latents",
                found: shape.to_vec(),
                expected: format!(
                    "[B, {expected}, T, H, W] with H a multiple of {ph} and W of {pw} is needed"
                ),
            });
        }
        Ok([t, h / ph, w / pw])
    }
}

impl<B: KernelBackend> PatchEmbed<B> {
    /// Latents `[B, C, T, H, W]` to tokens `[B, N, hidden]` in the dtype of the weights.
    pub(crate) fn forward(&self, latents: Tensor<B, 5>) -> Tensor<B, 3> {
        let [b, c, t, h, w] = latents.dims();
        let [_, ph, pw] = self.patch;
        let (nh, nw) = (h / ph, w / pw);
        let patches = latents
            .cast(self.dtype())
            .reshape([b, c, t, nh, ph, nw, pw])
            .permute([0, 2, 3, 5, 1, 4, 6])
            .reshape([b, t * nh * nw, c * ph * pw]);
        self.proj.forward(patches)
    }
}

/// Timesteps to vectors: a sinusoid (cosines, then sines) and a two-layer MLP, in fp32.
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedder<B: Backend> {
    pub(crate) linear_in: LoraLinear<B>,
    pub(crate) linear_out: LoraLinear<B>,
    frequencies: usize,
}

impl<B: Backend> TimestepEmbedder<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let width = config.adaln_tembed_dim;
        let frequencies = config.frequency_embedding_size;
        Self {
            linear_in: LoraLinearConfig::new(frequencies, width).init(device),
            linear_out: LoraLinearConfig::new(width, width).init(device),
            frequencies,
        }
    }
}

impl<B: KernelBackend> TimestepEmbedder<B> {
    /// Timesteps `[B, T]` (fp32, 0 to 1000) to embeddings `[B, T, adaln_tembed_dim]` in fp32.
    pub(crate) fn forward(&self, timesteps: Tensor<B, 2>) -> Tensor<B, 3> {
        let half = self.frequencies / 2;
        let device = timesteps.device();
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (-MAX_PERIOD.ln() as f32 * i as f32 / half as f32).exp())
            .collect();
        let frequencies = Tensor::<B, 3>::from_data(
            TensorData::new(frequencies, [1, 1, half]),
            (&device, DType::F32),
        );
        let angles = timesteps.cast(DType::F32).unsqueeze_dim::<3>(2) * frequencies;
        let mut waves = vec![angles.clone().cos(), angles.sin()];
        if self.frequencies % 2 == 1 {
            let [b, t, _] = waves[0].dims();
            waves.push(Tensor::zeros([b, t, 1], (&device, DType::F32)));
        }
        let hidden = silu(self.linear_in.forward(Tensor::cat(waves, 2)));
        self.linear_out.forward(hidden)
    }
}

/// Text embeddings to the width of the transformer: two layers with a tanh GELU between.
#[derive(Module, Debug)]
pub(crate) struct CaptionEmbedder<B: Backend> {
    pub(crate) linear_in: LoraLinear<B>,
    pub(crate) linear_out: LoraLinear<B>,
}

impl<B: Backend> CaptionEmbedder<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let width = config.hidden_size;
        Self {
            linear_in: LoraLinearConfig::new(config.caption_channels, width).init(device),
            linear_out: LoraLinearConfig::new(width, width).init(device),
        }
    }
}

impl<B: KernelBackend> CaptionEmbedder<B> {
    /// `[B, L, caption_channels]` to `[B, L, hidden]`.
    pub(crate) fn forward(&self, embeds: Tensor<B, 3>) -> Tensor<B, 3> {
        self.linear_out
            .forward(gelu_approximate(self.linear_in.forward(embeds)))
    }
}

/// Modulated norm and projection back to patches, in fp32.
#[derive(Module, Debug)]
pub(crate) struct FinalLayer<B: Backend> {
    pub(crate) adaln: LoraLinear<B>,
    pub(crate) linear: LoraLinear<B>,
    patch: [usize; 3],
}

impl<B: Backend> FinalLayer<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let hidden = config.hidden_size;
        let patch = config.patch_size.iter().product::<usize>() * config.out_channels;
        Self {
            adaln: LoraLinearConfig::new(config.adaln_tembed_dim, 2 * hidden).init(device),
            linear: LoraLinearConfig::new(hidden, patch).init(device),
            patch: config.patch_size,
        }
    }
}

impl<B: KernelBackend> FinalLayer<B> {
    /// Tokens `[B, N, hidden]` with timestep embeddings `[B, T, C_t]` to latents
    /// `[B, C_out, T, H, W]` in fp32, at most `most` tokens at a time. `grid` counts tokens.
    pub(crate) fn forward(
        &self,
        x: Tensor<B, 3>,
        t: Tensor<B, 3>,
        grid: [usize; 3],
        most: Option<usize>,
    ) -> Tensor<B, 5> {
        let [b, n, c] = x.dims();
        let modulation = self.adaln.forward(silu(t));
        let [shift, scale] = chunks(modulation);
        let project = |x: Tensor<B, 3>, shift, scale| {
            let x = norm_modulate(x.cast(DType::F32), shift, scale);
            self.linear.forward(x)
        };
        let x = match pieces(most, b, grid, 0..grid[0]) {
            None => project(x, shift, scale),
            Some(pieces) => {
                let rows = x.reshape([b * n, c]);
                let parts = pieces.iter().map(|piece| {
                    let (shift, scale) = (piece.of_table(&shift), piece.of_table(&scale));
                    project(piece.of_rows(&rows), shift, scale)
                });
                let all = Tensor::cat(parts.collect(), 1);
                let width = all.dims()[2];
                all.reshape([b, n, width])
            }
        };
        let [nt, nh, nw] = grid;
        let [_, ph, pw] = self.patch;
        let channels = x.dims()[2] / (ph * pw);
        x.reshape([b, nt, nh, nw, ph, pw, channels])
            .permute([0, 6, 1, 2, 4, 3, 5])
            .reshape([b, channels, nt, nh * ph, nw * pw])
    }
}

/// Splits the last dimension into `K` equal parts.
pub(crate) fn chunks<B: Backend, const K: usize>(x: Tensor<B, 3>) -> [Tensor<B, 3>; K] {
    let width = x.dims()[2] / K;
    std::array::from_fn(|i| x.clone().narrow(2, i * width, width))
}
