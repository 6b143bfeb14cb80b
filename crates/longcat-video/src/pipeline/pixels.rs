//! Between latents and pixels: the VAE's part of a pipeline.

use std::ops::ControlFlow;

use burn::tensor::{DType, Tensor};
use longcat_kernels::{KernelBackend, Stage};
use longcat_vae::{ChunkProgress, LatentDraw, Tiling, VaeError, VaeOptions, WanVae};

use super::{Observer, Pipeline};
use crate::VideoError;
use crate::frames::PixelFrames;
use crate::memory::ClipSizes;
use crate::noise::{NoisePurpose, NoiseSource, noise_tensor};

impl<B: KernelBackend> Pipeline<B> {
    /// Normalised latents of a clip `[1, 3, F, H, W]` in [-1, 1], for each sample of a batch.
    pub(crate) fn encode_condition(
        &mut self,
        clip: Tensor<B, 5>,
        batch: usize,
        draw: LatentDraw,
        first_draw: u32,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<B, 5>, VideoError> {
        observer.stage("encode");
        let [samples, _, frames, height, width] = clip.dims();
        let clip_sizes = ClipSizes {
            samples,
            frames,
            size: [height, width],
            whole: true,
        };
        let tiling = self.make_room_for_vae(&clip_sizes, "encoding frames")?;
        self.guarded(Stage::EncodingFrames, |pipeline| {
            let device = pipeline.device().clone();
            let options = in_tiles(tiling);
            let vae = pipeline.vae()?;
            let encoded = vae
                .encode_with(clip, &options, &mut follow(observer))
                .map_err(cancelled)?;
            let latents = match draw {
                LatentDraw::Mode => encoded.mean.repeat_dim(0, batch),
                LatentDraw::Sample => {
                    let mut shape = encoded.mean.dims();
                    shape[0] = batch;
                    let purpose = NoisePurpose::Posterior(first_draw);
                    let noise = noise_tensor(noise, purpose, shape, &device);
                    encoded.sample(noise)
                }
            };
            Ok(vae.normalize(latents).cast(DType::F32))
        })
    }

    /// The videos of a batch from normalised latents `[B, C, T, H, W]`.
    ///
    /// # Errors
    /// [`VideoError::Vae`], [`VideoError::Device`].
    pub fn decode(
        &mut self,
        latents: Tensor<B, 5>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PixelFrames>, VideoError> {
        self.guarded(Stage::Decoding, |pipeline| {
            PixelFrames::from_tensor(pipeline.decode_pixels(latents, observer)?)
        })
    }

    /// Pixels `[B, 3, F, H, W]` in [-1, 1] from normalised latents `[B, C, T, H, W]`.
    ///
    /// # Errors
    /// [`VideoError::Vae`], [`VideoError::Device`].
    pub fn decode_pixels(
        &mut self,
        latents: Tensor<B, 5>,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<B, 5>, VideoError> {
        let options = self.begin_decoding(&latents, true, observer)?;
        self.guarded(Stage::Decoding, |pipeline| {
            let latents = latents.cast(pipeline.options.vae_dtype);
            let vae = pipeline.vae()?;
            vae.decode_with(latents, &options, &mut follow(observer))
                .map_err(cancelled)
        })
    }

    /// Makes room for decoding latents `[B, C, T, H, W]`; `whole` if all their frames are to be on the
    /// device at once.
    pub(super) fn begin_decoding(
        &mut self,
        latents: &Tensor<B, 5>,
        whole: bool,
        observer: &mut dyn Observer,
    ) -> Result<VaeOptions, VideoError> {
        observer.stage("decode");
        let [samples, _, frames, height, width] = latents.dims();
        let factor = self.vae_config().scale_factor_spatial;
        let clip = ClipSizes {
            samples,
            frames: self.vae_config().frames(frames),
            size: [height * factor, width * factor],
            whole,
        };
        Ok(in_tiles(self.make_room_for_vae(&clip, "decoding")?))
    }

    /// The VAE, loaded when first asked for.
    ///
    /// # Errors
    /// [`VideoError::Vae`].
    pub fn vae(&mut self) -> Result<&WanVae<B>, VideoError> {
        if self.vae.is_none() {
            self.vae = Some(
                self.checkpoint
                    .load_vae(self.options.vae_dtype, self.device())?,
            );
        }
        match &self.vae {
            Some(vae) => Ok(vae),
            None => unreachable!("it was just loaded"),
        }
    }
}

fn in_tiles(tiling: Option<Tiling>) -> VaeOptions {
    VaeOptions {
        tiling,
        ..VaeOptions::default()
    }
}

/// Hands the VAE's progress to an observer, and its wish to stop to the VAE.
fn follow(observer: &mut dyn Observer) -> impl FnMut(ChunkProgress) -> ControlFlow<()> {
    |progress| {
        observer.progress(progress.done, progress.total);
        match observer.cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

fn cancelled(error: VaeError) -> VideoError {
    match error {
        VaeError::Cancelled => VideoError::Cancelled,
        error => VideoError::Vae(error),
    }
}
