//! The autoencoder: loading, encoding, decoding, and the normalisation of latents.

use std::ops::ControlFlow;
use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::{Conv3dOptions, KernelBackend};
use longcat_weights::{
    LoadOptions, LoadReport, WeightFiles, cast_module, check_module, load_module,
};
use regex::Regex;

use crate::cache::FrameCache;
use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::layers::CausalConv3d;
use crate::layout::official_weights;
use crate::stream::{DecodeChunks, EncodeStream};
use crate::tiling::TileGrid;
use crate::{ChunkProgress, Posterior, VaeError, VaeOptions, WanVaeConfig, canonical_names};

/// The Wan 2.1 video autoencoder.
///
/// Pixels are `[B, 3, F, H, W]` in [-1, 1]; latents are `[B, z, T, H/8, W/8]` with T = 1 + (F−1)/4.
/// The network computes in the dtype of its weights (or see [`Self::computing_in`]), norms in f32;
/// results are f32. Everything is differentiable, so it trains on an `Autodiff` backend as it is.
#[derive(Module, Debug)]
pub struct WanVae<B: Backend> {
    encoder: Encoder<B>,
    quant_conv: CausalConv3d<B>,
    post_quant_conv: CausalConv3d<B>,
    decoder: Decoder<B>,
    #[module(skip)]
    config: WanVaeConfig,
    /// Where it is not that of the weights.
    #[module(skip)]
    compute_dtype: Option<DType>,
}

impl<B: Backend> WanVae<B> {
    /// A VAE with random f32 weights, which are initialised when they are first used.
    pub fn new(config: &WanVaeConfig, device: &B::Device) -> Self {
        let (z, moments) = (config.z_dim, 2 * config.z_dim);
        Self {
            encoder: Encoder::new(config, device),
            quant_conv: CausalConv3d::new([moments, moments], [1; 3], device),
            post_quant_conv: CausalConv3d::new([z, z], [1; 3], device),
            decoder: Decoder::new(config, device),
            config: config.clone(),
            compute_dtype: None,
        }
    }

    /// The VAE with activations of another dtype than its weights, which are cast where they are used:
    /// training keeps f32 weights and halves the memory of activations with bf16.
    pub fn computing_in(mut self, dtype: DType) -> Self {
        self.compute_dtype = Some(dtype);
        self
    }

    /// The VAE with an encoder that is not trained: its latents stay what they are.
    pub fn freeze_encoder(mut self) -> Self {
        self.encoder = self.encoder.no_grad();
        self.quant_conv = self.quant_conv.no_grad();
        self
    }

    /// The VAE with its weights in another dtype. The scales of norms stay what they are.
    pub fn cast(self, dtype: DType) -> Self {
        cast_module(self, dtype, Some(&norm_scales()))
    }

    /// The config the VAE was built from.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// The dtype the network computes in.
    pub fn dtype(&self) -> DType {
        let of_weights = || self.post_quant_conv.weight.val().dtype();
        self.compute_dtype.unwrap_or_else(of_weights)
    }

    /// Latents as the transformer sees them: (z − mean) / std per channel, f32.
    pub fn normalize(&self, latents: Tensor<B, 5>) -> Tensor<B, 5> {
        let device = latents.device();
        let mean = self.per_channel(&self.config.latents_mean, &device);
        let std = self.per_channel(&self.config.latents_std, &device);
        (latents.cast(DType::F32) - mean) / std
    }

    /// The inverse of [`Self::normalize`]: z · std + mean per channel, f32.
    pub fn denormalize(&self, latents: Tensor<B, 5>) -> Tensor<B, 5> {
        let device = latents.device();
        let mean = self.per_channel(&self.config.latents_mean, &device);
        let std = self.per_channel(&self.config.latents_std, &device);
        latents.cast(DType::F32) * std + mean
    }

    fn per_channel(&self, values: &[f32], device: &B::Device) -> Tensor<B, 5> {
        let data = TensorData::new(values.to_vec(), [1, values.len(), 1, 1, 1]);
        Tensor::from_data(data, (device, DType::F32))
    }
}

impl<B: KernelBackend> WanVae<B> {
    /// Loads the weights of a file or directory in any layout (see
    /// [`official_weights`](crate::official_weights)), cast to `dtype` (the scales of norms stay f32), and
    /// the `config.json` of a directory; without one the config is that of the shapes.
    ///
    /// # Errors
    /// [`VaeError`] names file and key: see [`WanVaeConfig::read`] and
    /// [`longcat_weights::load_module`].
    pub fn load(path: &Path, dtype: DType, device: &B::Device) -> Result<Self, VaeError> {
        let files = official_weights(&WeightFiles::open(path)?)?;
        let config = WanVaeConfig::beside(path, &files)?;
        let mut vae = Self::new(&config, device);
        let options = LoadOptions {
            dtype: Some(dtype),
            keep_f32: Some(norm_scales()),
            ..LoadOptions::default()
        };
        load_module(&mut vae, &files, &canonical_names(), &options)?;
        Ok(vae)
    }

    /// Which weights under their official names a VAE of this config would take.
    pub fn check(config: &WanVaeConfig, files: &WeightFiles, device: &B::Device) -> LoadReport {
        let vae = Self::new(config, device);
        check_module(&vae, files, &canonical_names(), &LoadOptions::default())
    }

    /// The posterior of a clip `[B, 3, F, H, W]` in [-1, 1], any float dtype. Trailing frames that do
    /// not fill a group of four are dropped.
    ///
    /// # Errors
    /// [`VaeError::Shape`] when there are no frames, channels are not those of the config, or height
    /// and width are not multiples of 8.
    pub fn encode(&self, video: Tensor<B, 5>) -> Result<Posterior<B>, VaeError> {
        self.encode_with(video, &VaeOptions::default(), &mut |_| {
            ControlFlow::Continue(())
        })
    }

    /// As [`Self::encode`], cut as `options` say; `progress` is called after every chunk and may stop.
    ///
    /// # Errors
    /// As [`Self::encode`]; also [`VaeError::Options`], and [`VaeError::Cancelled`] on a break.
    pub fn encode_with(
        &self,
        video: Tensor<B, 5>,
        options: &VaeOptions,
        progress: &mut dyn FnMut(ChunkProgress) -> ControlFlow<()>,
    ) -> Result<Posterior<B>, VaeError> {
        let grid = self.pixel_grid(video.dims(), options)?;
        let latents = self.config.latent_frames(video.dims()[2]);
        let per_chunk = options.latent_frames_per_chunk;
        let chunks = latents.div_ceil(per_chunk);
        let mut done = Count::new(grid.len() * chunks, progress);
        let mut tiles = Vec::with_capacity(grid.len());
        for tile in 0..grid.len() {
            let video = grid.cut(&video, tile, self.config.scale_factor_spatial);
            let mut cache = FrameCache::for_chunks(chunks);
            let mut moments = Vec::new();
            let mut start = 0;
            for first in (0..latents).step_by(per_chunk) {
                let end = first.saturating_add(per_chunk).min(latents);
                let end = self.config.frames(end);
                let frames = video.clone().narrow(2, start, end - start);
                moments.push(self.encode_next(frames, &mut cache));
                start = end;
                done.one_more()?;
            }
            tiles.push(Tensor::cat(moments, 2));
        }
        Ok(Posterior::from_moments(grid.join(tiles, 1)))
    }

    /// Encodes a clip of pictures of `[height, width]` that arrives little by little.
    ///
    /// # Errors
    /// [`VaeError::Shape`] when height and width are not multiples of 8; [`VaeError::Options`].
    pub fn encode_stream(
        &self,
        size: [usize; 2],
        options: &VaeOptions,
    ) -> Result<EncodeStream<'_, B>, VaeError> {
        let dims = [1, self.config.in_channels, 1, size[0], size[1]];
        let grid = self.pixel_grid(dims, options)?;
        let per_chunk = options.latent_frames_per_chunk;
        Ok(EncodeStream::new(self, size, grid, per_chunk))
    }

    /// Pixels `[B, 3, 1 + 4(T−1), 8h, 8w]`, f32, clamped to [-1, 1], from normalised latents
    /// `[B, z, T, h, w]` of any float dtype.
    ///
    /// # Errors
    /// [`VaeError::Shape`] when the latents are empty or do not have the config's channels.
    pub fn decode(&self, latents: Tensor<B, 5>) -> Result<Tensor<B, 5>, VaeError> {
        self.decode_with(latents, &VaeOptions::default(), &mut |_| {
            ControlFlow::Continue(())
        })
    }

    /// As [`Self::decode`], cut as `options` say; `progress` is called after every chunk and may stop.
    ///
    /// Tiles are decoded one after another, each from beginning to end, so that only one of them is
    /// remembered; [`Self::decode_chunks`] needs more memory with tiles.
    ///
    /// # Errors
    /// As [`Self::decode`]; also [`VaeError::Options`], and [`VaeError::Cancelled`] on a break.
    pub fn decode_with(
        &self,
        latents: Tensor<B, 5>,
        options: &VaeOptions,
        progress: &mut dyn FnMut(ChunkProgress) -> ControlFlow<()>,
    ) -> Result<Tensor<B, 5>, VaeError> {
        let grid = self.latent_grid(latents.dims(), options)?;
        let whole = VaeOptions {
            tiling: None,
            ..options.clone()
        };
        let chunks = latents.dims()[2].div_ceil(options.latent_frames_per_chunk);
        let mut done = Count::new(grid.len() * chunks, progress);
        let mut tiles = Vec::with_capacity(grid.len());
        for tile in 0..grid.len() {
            let mut frames = Vec::with_capacity(chunks);
            for chunk in self.decode_chunks(grid.cut(&latents, tile, 1), &whole)? {
                frames.push(chunk);
                done.one_more()?;
            }
            tiles.push(Tensor::cat(frames, 2));
        }
        Ok(grid.join(tiles, self.config.scale_factor_spatial))
    }

    /// As [`Self::decode`], chunk by chunk: 1 + 4(n−1) frames, then 4n each time, for n latent
    /// frames per chunk.
    ///
    /// # Errors
    /// [`VaeError::Shape`], [`VaeError::Options`].
    pub fn decode_chunks(
        &self,
        latents: Tensor<B, 5>,
        options: &VaeOptions,
    ) -> Result<DecodeChunks<'_, B>, VaeError> {
        let grid = self.latent_grid(latents.dims(), options)?;
        let latents = self.denormalize(latents).cast(self.dtype());
        Ok(DecodeChunks::new(self, latents, grid, options))
    }

    /// The next frames of a clip, `[B, 3, F, H, W]`, to moments `[B, 2z, T, h, w]` in the network's
    /// dtype.
    pub(crate) fn encode_next(
        &self,
        frames: Tensor<B, 5>,
        cache: &mut FrameCache<B>,
    ) -> Tensor<B, 5> {
        let frames = channels_last(frames.cast(self.dtype()));
        let moments = cache.chunk(|cache| self.encoder.forward(frames, cache));
        channels_first(self.quant_conv.convolve(moments, Conv3dOptions::default()))
    }

    /// The next latent frames of a clip, not normalised and in the network's dtype, to pixels, which
    /// may lie beyond [-1, 1].
    pub(crate) fn decode_next(
        &self,
        latents: Tensor<B, 5>,
        cache: &mut FrameCache<B>,
    ) -> Tensor<B, 5> {
        let latents = self
            .post_quant_conv
            .convolve(channels_last(latents), Conv3dOptions::default());
        let frames = cache.chunk(|cache| self.decoder.forward(latents, cache));
        channels_first(frames.cast(DType::F32))
    }

    fn pixel_grid(&self, dims: [usize; 5], options: &VaeOptions) -> Result<TileGrid, VaeError> {
        let factor = self.config.scale_factor_spatial;
        options.check(factor)?;
        let [_, channels, frames, height, width] = dims;
        let error = |reason| Err(VaeError::shape("video", dims, reason));
        if channels != self.config.in_channels {
            return error(format!("{} channels are expected", self.config.in_channels));
        }
        if frames == 0 {
            return error("at least one frame is needed".into());
        }
        if [height, width].iter().any(|n| *n == 0 || n % factor != 0) {
            return error(format!(
                "height and width must be positive multiples of {factor}; resize or crop first"
            ));
        }
        let size = [height / factor, width / factor];
        Ok(TileGrid::new(size, options.tiling.as_ref(), factor))
    }

    fn latent_grid(&self, dims: [usize; 5], options: &VaeOptions) -> Result<TileGrid, VaeError> {
        let factor = self.config.scale_factor_spatial;
        options.check(factor)?;
        let [_, channels, frames, height, width] = dims;
        if channels != self.config.z_dim {
            let reason = format!("{} channels are expected", self.config.z_dim);
            return Err(VaeError::shape("latents", dims, reason));
        }
        if frames * height * width == 0 {
            let reason = "at least one latent frame is needed";
            return Err(VaeError::shape("latents", dims, reason));
        }
        Ok(TileGrid::new(
            [height, width],
            options.tiling.as_ref(),
            factor,
        ))
    }
}

/// `[B, C, T, H, W]` to `[B, T, H, W, C]`, the layout that convolutions are fastest in.
fn channels_last<B: Backend>(x: Tensor<B, 5>) -> Tensor<B, 5> {
    x.permute([0, 2, 3, 4, 1])
}

/// `[B, T, H, W, C]` to `[B, C, T, H, W]`.
fn channels_first<B: Backend>(x: Tensor<B, 5>) -> Tensor<B, 5> {
    x.permute([0, 4, 1, 2, 3])
}

/// Tells a callback about one chunk after another.
struct Count<'a> {
    progress: ChunkProgress,
    callback: &'a mut dyn FnMut(ChunkProgress) -> ControlFlow<()>,
}

impl<'a> Count<'a> {
    fn new(total: usize, callback: &'a mut dyn FnMut(ChunkProgress) -> ControlFlow<()>) -> Self {
        let progress = ChunkProgress { done: 0, total };
        Self { progress, callback }
    }

    fn one_more(&mut self) -> Result<(), VaeError> {
        self.progress.done += 1;
        match (self.callback)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(VaeError::Cancelled),
        }
    }
}

/// Module paths whose weights stay f32 in every dtype.
fn norm_scales() -> Regex {
    Regex::new(r"\.gamma$").unwrap_or_else(|error| unreachable!("{error}"))
}
