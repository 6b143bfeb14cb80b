//! What can go wrong with video and image files.

use std::path::{Path, PathBuf};

use crate::VideoSize;

/// What can go wrong with video and image files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// A file or folder could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The path does not say in which format to write.
    #[error(
        "{path}: cannot tell the output format; end the name in .mp4, .gif or .webp, or in / for a folder of PNG files"
    )]
    UnknownFormat {
        /// The path.
        path: PathBuf,
    },
    /// The size does not suit the format.
    #[error("{path}: {size} frames cannot be written: {reason}")]
    Size {
        /// The file.
        path: PathBuf,
        /// Width and height.
        size: VideoSize,
        /// What the format needs.
        reason: &'static str,
    },
    /// The frame rate does not suit the format.
    #[error("{path}: {fps} frames per second cannot be written: {reason}")]
    FrameRate {
        /// The file.
        path: PathBuf,
        /// Frames per second.
        fps: f64,
        /// What the format needs.
        reason: &'static str,
    },
    /// The quality is not between 0 and 100.
    #[error("quality {0} is out of range; use 0 (smallest) to 100 (best)")]
    Quality(u8),
    /// A buffer does not hold whole frames of the announced size.
    #[error("a buffer of {found} bytes where {expected} were expected (width x height x 3)")]
    FrameBytes {
        /// Bytes of a frame.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A video without a single frame.
    #[error("{path}: no frames")]
    NoFrames {
        /// The file.
        path: PathBuf,
    },
    /// An encoder failed.
    #[error("{path}: encoding failed: {reason}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// The encoder's message.
        reason: String,
    },
    /// A file is damaged, truncated, or not what its name says.
    #[error("{path}: cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Only `ffmpeg` can read this file, and it is not there.
    #[error(
        "{path}: {reason}; install ffmpeg and make sure it is on the PATH, or convert the file to an H.264 mp4"
    )]
    NeedsFfmpeg {
        /// The file.
        path: PathBuf,
        /// What the bundled reader lacks.
        reason: String,
    },
    /// A picture has transparent pixels.
    #[error("{path}: has transparent pixels; flatten it onto a background first")]
    Transparent {
        /// The file.
        path: PathBuf,
    },
    /// Pictures of one video differ in size.
    #[error("{path}: {found} pixels, but the frames before it have {expected}")]
    MixedSizes {
        /// The file that differs.
        path: PathBuf,
        /// Size of the first frame.
        expected: VideoSize,
        /// Size of this frame.
        found: VideoSize,
    },
    /// The folder that an output is to lie in is not there.
    #[error("{path} is not a folder; make it first")]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// An output folder already holds something.
    #[error("{path}: the folder is not empty; choose another one or empty it")]
    FolderNotEmpty {
        /// The folder.
        path: PathBuf,
    },
}

impl MediaError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::Io { path, cause }
    }

    pub(crate) fn encode(path: &Path, reason: impl ToString) -> Self {
        Self::Encode {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn unreadable(path: &Path, reason: impl ToString) -> Self {
        Self::Unreadable {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        }
    }
}
