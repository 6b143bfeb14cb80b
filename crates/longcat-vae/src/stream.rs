//! Encoding and decoding chunk by chunk, in memory that does not grow with the length.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::KernelBackend;

use crate::cache::FrameCache;
use crate::tiling::TileGrid;
use crate::{Posterior, VaeError, VaeOptions, WanVae};

/// Decoded frames as they come; see [`WanVae::decode_chunks`].
///
/// Each item is `[B, 3, F, H, W]`, f32 in [-1, 1]. Dropping the iterator stops the decoding.
#[derive(Debug)]
pub struct DecodeChunks<'a, B: Backend> {
    vae: &'a WanVae<B>,
    latents: Tensor<B, 5>,
    next: usize,
    per_chunk: usize,
    clamp: bool,
    grid: TileGrid,
    caches: Vec<FrameCache<B>>,
}

impl<'a, B: Backend> DecodeChunks<'a, B> {
    /// `latents` are not normalised and in the network's dtype.
    pub(crate) fn new(
        vae: &'a WanVae<B>,
        latents: Tensor<B, 5>,
        grid: TileGrid,
        options: &VaeOptions,
    ) -> Self {
        let per_chunk = options.latent_frames_per_chunk;
        let chunks = latents.dims()[2].div_ceil(per_chunk);
        Self {
            vae,
            latents,
            next: 0,
            per_chunk,
            clamp: options.clamp,
            caches: (0..grid.len())
                .map(|_| FrameCache::for_chunks(chunks))
                .collect(),
            grid,
        }
    }
}

impl<B: KernelBackend> Iterator for DecodeChunks<'_, B> {
    type Item = Tensor<B, 5>;

    fn next(&mut self) -> Option<Self::Item> {
        let count = self.per_chunk.min(self.latents.dims()[2] - self.next);
        if count == 0 {
            return None;
        }
        let latents = self.latents.clone().narrow(2, self.next, count);
        self.next += count;
        let tiles = self
            .caches
            .iter_mut()
            .enumerate()
            .map(|(tile, cache)| {
                let frames = self
                    .vae
                    .decode_next(self.grid.cut(&latents, tile, 1), cache);
                match self.clamp {
                    true => frames.clamp(-1.0, 1.0),
                    false => frames,
                }
            })
            .collect();
        let factor = self.vae.config().scale_factor_spatial;
        Some(self.grid.join(tiles, factor))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.latents.dims()[2] - self.next).div_ceil(self.per_chunk);
        (left, Some(left))
    }
}

impl<B: KernelBackend> ExactSizeIterator for DecodeChunks<'_, B> {}

/// Encodes frames as they arrive; see [`WanVae::encode_stream`].
#[derive(Debug)]
pub struct EncodeStream<'a, B: Backend> {
    vae: &'a WanVae<B>,
    per_chunk: usize,
    grid: TileGrid,
    size: [usize; 2],
    caches: Vec<FrameCache<B>>,
    pending: Option<Tensor<B, 5>>,
    moments: Vec<Tensor<B, 5>>,
}

impl<'a, B: KernelBackend> EncodeStream<'a, B> {
    pub(crate) fn new(
        vae: &'a WanVae<B>,
        size: [usize; 2],
        grid: TileGrid,
        per_chunk: usize,
    ) -> Self {
        Self {
            vae,
            per_chunk,
            size,
            caches: (0..grid.len()).map(|_| FrameCache::new()).collect(),
            grid,
            pending: None,
            moments: Vec::new(),
        }
    }

    /// Takes the next frames `[B, 3, F, H, W]` in [-1, 1], any number of them.
    ///
    /// # Errors
    /// [`VaeError::Shape`] when they do not have the size and channels that were announced, or the
    /// batch of the frames before them.
    pub fn push(&mut self, frames: Tensor<B, 5>) -> Result<(), VaeError> {
        self.check(frames.dims())?;
        let mut pending = match self.pending.take() {
            Some(pending) => Tensor::cat(vec![pending, frames.cast(self.vae.dtype())], 2),
            None => frames.cast(self.vae.dtype()),
        };
        loop {
            let (wanted, available) = (self.frames_of(self.per_chunk), pending.dims()[2]);
            if available < wanted {
                break;
            }
            self.encode(pending.clone().narrow(2, 0, wanted));
            if available == wanted {
                return Ok(());
            }
            pending = pending.narrow(2, wanted, available - wanted);
        }
        self.pending = Some(pending);
        Ok(())
    }

    /// The posterior of everything that was pushed. Trailing frames that do not fill a group are
    /// dropped.
    ///
    /// # Errors
    /// [`VaeError::Shape`] when there was no frame.
    pub fn finish(mut self) -> Result<Posterior<B>, VaeError> {
        if let Some(pending) = self.pending.take() {
            let group = self.vae.config().scale_factor_temporal;
            let available = pending.dims()[2];
            let whole = match self.moments.is_empty() {
                true => 1 + (available - 1) / group * group,
                false => available / group * group,
            };
            if whole > 0 {
                self.encode(pending.narrow(2, 0, whole));
            }
        }
        if self.moments.is_empty() {
            let [height, width] = self.size;
            let dims = [1, self.vae.config().in_channels, 0, height, width];
            return Err(VaeError::shape(
                "video",
                dims,
                "at least one frame is needed",
            ));
        }
        Ok(Posterior::from_moments(Tensor::cat(self.moments, 2)))
    }

    /// Encodes frames that make whole latent frames.
    fn encode(&mut self, frames: Tensor<B, 5>) {
        let factor = self.vae.config().scale_factor_spatial;
        let tiles = self
            .caches
            .iter_mut()
            .enumerate()
            .map(|(tile, cache)| {
                self.vae
                    .encode_next(self.grid.cut(&frames, tile, factor), cache)
            })
            .collect();
        self.moments.push(self.grid.join(tiles, 1));
    }

    /// Frames that make the next `latents` latent frames.
    fn frames_of(&self, latents: usize) -> usize {
        let group = self.vae.config().scale_factor_temporal;
        match self.moments.is_empty() {
            true => (latents - 1).saturating_mul(group).saturating_add(1),
            false => latents.saturating_mul(group),
        }
    }

    fn check(&self, dims: [usize; 5]) -> Result<(), VaeError> {
        let [batch, channels, frames, height, width] = dims;
        let expected = self.vae.config().in_channels;
        let known = self.moments.first().or(self.pending.as_ref());
        let same_batch = known.is_none_or(|x| x.dims()[0] == batch);
        if channels == expected && frames > 0 && [height, width] == self.size && same_batch {
            return Ok(());
        }
        let [height, width] = self.size;
        let reason = match known {
            Some(x) => format!(
                "expected [{}, {expected}, F, {height}, {width}]",
                x.dims()[0]
            ),
            None => format!("expected [B, {expected}, F, {height}, {width}]"),
        };
        Err(VaeError::shape("video", dims, reason))
    }
}
