//! What all readers have in common: frames as they are stored, one after another.

use std::path::Path;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use crate::colour::ColourSpace;
use crate::planar::Planar;
use crate::{MediaError, VideoSize};

/// Frames of a file in the order in which they are shown.
pub(crate) trait Source {
    /// The next frame; `None` after the last one.
    ///
    /// # Errors
    /// [`MediaError`] names the file. A file that ends early is an error after its last frame.
    fn next(&mut self) -> Result<Option<StoredFrame>, MediaError>;
}

/// A frame as it is stored.
pub(crate) struct StoredFrame {
    /// When it is shown, in seconds after some moment that is the same for all frames.
    pub(crate) start: f64,
    /// How long, in seconds; only the last frame's counts.
    pub(crate) duration: f64,
    pub(crate) bytes: Vec<u8>,
}

/// How stored frames become pictures.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) size: VideoSize,
    pub(crate) pixels: Pixels,
    /// Width of a sample over its height.
    pub(crate) aspect: f64,
    /// What makes the picture upright, after its samples were made square.
    pub(crate) orientation: Orientation,
}

/// What the bytes of a frame are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pixels {
    /// `[H, W, 3]`.
    Rgb,
    /// Planes of luma and chroma.
    Planar(Planar, ColourSpace),
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// At the first frame.
    Start,
    /// So many seconds before the end or earlier, where the format allows it.
    BeforeEnd(f64),
}

/// A file that was opened for reading.
pub(crate) struct Opened {
    pub(crate) source: Box<dyn Source>,
    pub(crate) stored: Stored,
    /// Frames per second, as far as the container says.
    pub(crate) fps: Option<f64>,
    /// Whether the first frame that comes is the first of the file.
    pub(crate) whole: bool,
}

impl Stored {
    /// Upright RGB frames of square pixels.
    pub(crate) fn rgb(size: VideoSize) -> Self {
        Self {
            size,
            pixels: Pixels::Rgb,
            aspect: 1.0,
            orientation: Orientation::NoTransforms,
        }
    }

    /// Bytes of a frame.
    pub(crate) fn bytes(&self) -> usize {
        match self.pixels {
            Pixels::Rgb => crate::frames::frame_bytes(self.size),
            Pixels::Planar(planar, _) => planar.bytes(self.size),
        }
    }

    /// No video has samples ten times as wide as high, or the other way round.
    pub(crate) fn check_aspect(&self, path: &Path) -> Result<(), MediaError> {
        if (0.1..=10.0).contains(&self.aspect) {
            return Ok(());
        }
        let reason = format!("its samples are {} times as wide as high", self.aspect);
        Err(MediaError::unreadable(path, reason))
    }

    /// The size with square pixels, before it is turned.
    fn square(&self) -> VideoSize {
        let VideoSize { width, height } = self.size;
        let scaled = |side: usize, by: f64| ((side as f64 * by).round() as usize).max(1);
        if self.aspect >= 1.0 {
            VideoSize::new(scaled(width, self.aspect), height)
        } else {
            VideoSize::new(width, scaled(height, 1.0 / self.aspect))
        }
    }

    /// Width and height of the pictures.
    pub(crate) fn shown(&self) -> VideoSize {
        let VideoSize { width, height } = self.square();
        match self.orientation {
            Orientation::NoTransforms
            | Orientation::Rotate180
            | Orientation::FlipHorizontal
            | Orientation::FlipVertical => VideoSize::new(width, height),
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => VideoSize::new(height, width),
        }
    }

    /// The picture of a frame, `[H, W, 3]` in the size of [`Self::shown`].
    pub(crate) fn picture(&self, bytes: &[u8]) -> Vec<u8> {
        let rgb = match self.pixels {
            Pixels::Rgb => bytes.to_vec(),
            Pixels::Planar(planar, space) => planar.rgb(bytes, self.size, space),
        };
        let square = self.square();
        if square == self.size && self.orientation == Orientation::NoTransforms {
            return rgb;
        }
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let (width, height) = (side(self.size.width), side(self.size.height));
        let Some(mut picture) = RgbImage::from_raw(width, height, rgb) else {
            unreachable!("a frame has width x height x 3 bytes");
        };
        if square != self.size {
            let (width, height) = (side(square.width), side(square.height));
            picture = imageops::resize(&picture, width, height, FilterType::CatmullRom);
        }
        let mut picture = DynamicImage::from(picture);
        picture.apply_orientation(self.orientation);
        picture.into_rgb8().into_raw()
    }
}
