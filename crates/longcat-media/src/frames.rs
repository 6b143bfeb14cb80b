//! The frames of a video on the host.

use crate::{MediaError, VideoSize};

/// Frames of one size, RGB with 8 bits, `[F, H, W, 3]` in one buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoFrames {
    size: VideoSize,
    fps: f64,
    data: Vec<u8>,
}

impl VideoFrames {
    /// Frames of this size at `fps` frames per second, from bytes `[F, H, W, 3]`.
    ///
    /// # Errors
    /// [`MediaError::FrameBytes`] if `data` does not hold whole frames, or has none of any size.
    pub fn new(size: VideoSize, fps: f64, data: Vec<u8>) -> Result<Self, MediaError> {
        let expected = frame_bytes(size);
        if expected == 0 || !data.len().is_multiple_of(expected) {
            return Err(MediaError::FrameBytes {
                expected,
                found: data.len(),
            });
        }
        Ok(Self { size, fps, data })
    }

    /// Width and height.
    pub fn size(&self) -> VideoSize {
        self.size
    }

    /// Frames per second, averaged where the source has none that is constant.
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.data.len() / frame_bytes(self.size)
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The frames in order, each `[H, W, 3]`.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.data.chunks_exact(frame_bytes(self.size))
    }

    /// All bytes, `[F, H, W, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Takes the bytes out.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }
}

/// Bytes of one RGB frame.
pub(crate) fn frame_bytes(size: VideoSize) -> usize {
    size.width.saturating_mul(size.height).saturating_mul(3)
}
