//! What can be wrong with frames.

/// What can be wrong with the frames that are handed in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapesError {
    /// The buffer does not hold whole frames, or holds none.
    #[error("{found} bytes are not one or more RGB frames of {width}x{height} pixels")]
    FrameBytes {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes handed in.
        found: usize,
    },
    /// Two clips that are compared differ in shape.
    #[error("clips of {left:?} and {right:?} (frames, rows, columns) cannot be compared")]
    DifferentShapes {
        /// Frames, rows and columns of the first clip.
        left: [usize; 3],
        /// Frames, rows and columns of the second clip.
        right: [usize; 3],
    },
}
