//! The frames of a video on the host.

use crate::MediaError;

/// Frames of one size, RGB with 8 bits, `[F, H, W, 3]` in one buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoFrames {
    width: u32,
    height: u32,
    fps: f64,
    data: Vec<u8>,
}

impl VideoFrames {
    /// Frames of `width` × `height` pixels at `fps` frames per second.
    ///
    /// # Errors
    /// [`MediaError::FrameBytes`] if `data` does not hold whole frames, or has none of any size.
    pub fn new(width: u32, height: u32, fps: f64, data: Vec<u8>) -> Result<Self, MediaError> {
        let expected = frame_bytes(width, height);
        if expected == 0 || !data.len().is_multiple_of(expected) {
            return Err(MediaError::FrameBytes {
                expected,
                found: data.len(),
            });
        }
        Ok(Self {
            width,
            height,
            fps,
            data,
        })
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Frames per second, averaged where the source has none that is constant.
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.data.len() / frame_bytes(self.width, self.height)
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The frames in order, each `[H, W, 3]`.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.data.chunks_exact(frame_bytes(self.width, self.height))
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
pub(crate) fn frame_bytes(width: u32, height: u32) -> usize {
    width as usize * height as usize * 3
}
