//! How videos are read, and reading all of one.

use std::path::{Path, PathBuf};

use crate::{MediaError, VideoFrames, VideoReader};

/// Who decodes videos.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Decoder {
    /// `ffmpeg` where it is on the `PATH`, else the bundled decoder.
    #[default]
    Auto,
    /// This `ffmpeg` program.
    Ffmpeg(PathBuf),
    /// The bundled decoder, for H.264 in mp4.
    Bundled,
}

/// How a video is read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Who decodes mp4 and other containers. GIF, WebP and pictures never need a decoder.
    pub decoder: Decoder,
    /// Frames per second of a folder of pictures, which has none itself.
    pub folder_fps: f64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            decoder: Decoder::Auto,
            folder_fps: 15.0,
        }
    }
}

/// Reads all frames of an mp4 (or any container that ffmpeg knows), an animated GIF or WebP, or a
/// folder of pictures, as they are: [`VideoReader`] gives them one by one, and at a steady rate.
///
/// The bundled decoder reads the first track of H.264 mp4 files with 8 bits and 4:2:0, and refuses
/// what it cannot read right.
///
/// # Errors
/// [`MediaError`] names the file: absent, damaged or truncated, without frames, transparent
/// pictures or pictures of several sizes, and files that would need ffmpeg where it is missing.
pub fn read_video(path: &Path, options: &ReadOptions) -> Result<VideoFrames, MediaError> {
    VideoReader::open(path, options)?.read_all()
}

/// The extension in small letters; empty where there is none.
pub(crate) fn extension(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}
