//! How a clip is cut for encoding and decoding, and how far it has come.

use crate::VaeError;

/// How a clip is cut for encoding and decoding.
///
/// The cut in time never changes the result; tiles change it slightly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaeOptions {
    /// Latent frames that pass through the network at once; memory grows with it. 1 by default;
    /// `usize::MAX` takes the whole clip.
    pub latent_frames_per_chunk: usize,
    /// Works on overlapping tiles of the picture where it is larger than one.
    pub tiling: Option<Tiling>,
    /// Whether decoded pixels are cut to [-1, 1]. Not for training: a pixel that is cut has no
    /// gradient, and would never come back.
    pub clamp: bool,
}

impl Default for VaeOptions {
    fn default() -> Self {
        Self {
            latent_frames_per_chunk: 1,
            tiling: None,
            clamp: true,
        }
    }
}

impl VaeOptions {
    /// Checks sizes against the pixels per latent.
    pub(crate) fn check(&self, factor: usize) -> Result<(), VaeError> {
        if self.latent_frames_per_chunk == 0 {
            return Err(VaeError::Options {
                option: "latent_frames_per_chunk",
                value: "0".into(),
                reason: "at least 1 is needed".into(),
            });
        }
        self.tiling.as_ref().map_or(Ok(()), |t| t.check(factor))
    }
}

/// Overlapping tiles of a picture, in pixels, as `[height, width]`.
///
/// The defaults are those of the reference. Where tiles overlap, they are cross-faded linearly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Size of a tile: 256 by default.
    pub tile: [usize; 2],
    /// From one tile to the next: 192 by default.
    pub stride: [usize; 2],
}

impl Default for Tiling {
    fn default() -> Self {
        Self {
            tile: [256; 2],
            stride: [192; 2],
        }
    }
}

impl Tiling {
    fn check(&self, factor: usize) -> Result<(), VaeError> {
        let error = |option, size: [usize; 2], reason: String| {
            Err(VaeError::Options {
                option,
                value: format!("{}x{}", size[1], size[0]),
                reason,
            })
        };
        for (option, size) in [("tile", self.tile), ("tile stride", self.stride)] {
            if size.iter().any(|n| *n == 0 || n % factor != 0) {
                let reason = format!("both sides must be positive multiples of {factor} pixels");
                return error(option, size, reason);
            }
        }
        if self.stride[0] > self.tile[0] || self.stride[1] > self.tile[1] {
            let [height, width] = self.tile;
            let reason = format!("tiles of {width}x{height} would leave gaps");
            return error("tile stride", self.stride, reason);
        }
        Ok(())
    }
}

/// How far an encoding or decoding has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkProgress {
    /// Chunks done, over all tiles.
    pub done: usize,
    /// Chunks in all.
    pub total: usize,
}
