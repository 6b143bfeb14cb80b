//! Frames of pixels: what is rendered, and what is judged.

use crate::ShapesError;

/// RGB frames with 8 bits, `[F, H, W, 3]` in one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedClip {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl RenderedClip {
    /// Frames of `width` × `height` pixels.
    ///
    /// # Errors
    /// [`ShapesError::FrameBytes`] if `data` does not hold one or more whole frames.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, ShapesError> {
        let frame = width * height * 3;
        if frame == 0 || data.is_empty() || !data.len().is_multiple_of(frame) {
            return Err(ShapesError::FrameBytes {
                width,
                height,
                found: data.len(),
            });
        }
        Ok(Self {
            width,
            height,
            data,
        })
    }

    /// A clip of one colour, to draw on.
    pub(crate) fn filled(side: usize, frames: usize, colour: [u8; 3]) -> Self {
        Self {
            width: side,
            height: side,
            data: colour.repeat(frames * side * side),
        }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Frames, rows, columns.
    pub fn shape(&self) -> [usize; 3] {
        let frames = self.data.len() / (self.width * self.height * 3);
        [frames, self.height, self.width]
    }

    /// The frames in order, each `[H, W, 3]`.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.data.chunks_exact(self.width * self.height * 3)
    }

    pub(crate) fn frames_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        self.data.chunks_exact_mut(self.width * self.height * 3)
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
