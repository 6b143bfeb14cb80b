//! Reading a video, whatever its format.

use std::path::{Path, PathBuf};

use crate::{MediaError, VideoFrames, ffmpeg};
use crate::{gif::read_gif, image_folder::read_folder, mp4_reader::read_mp4, webp::read_webp};

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
/// folder of pictures.
///
/// The bundled decoder reads the first track of H.264 mp4 files, does not look at rotation, and
/// knows colour from the stream or the container (else BT.601 in limited range).
///
/// # Errors
/// [`MediaError`] names the file: absent, damaged or truncated, without frames, transparent
/// pictures or pictures of several sizes, and files that would need ffmpeg where it is missing.
pub fn read_video(path: &Path, options: &ReadOptions) -> Result<VideoFrames, MediaError> {
    if path.is_dir() {
        return read_folder(path, options.folder_fps);
    }
    let extension = extension(path);
    match extension.as_str() {
        "gif" => return read_gif(path),
        "webp" => return read_webp(path),
        _ => {}
    }
    let program = match &options.decoder {
        Decoder::Ffmpeg(program) => Some(program.clone()),
        Decoder::Auto => Some(PathBuf::from("ffmpeg")).filter(|p| ffmpeg::is_available(p)),
        Decoder::Bundled => None,
    };
    match program {
        Some(program) => ffmpeg::read(&program, path),
        None if matches!(extension.as_str(), "mp4" | "m4v" | "mov") => read_mp4(path),
        None => {
            std::fs::metadata(path).map_err(MediaError::io(path))?;
            Err(MediaError::NeedsFfmpeg {
                path: path.to_path_buf(),
                reason: "only mp4, GIF, WebP and folders of pictures can be read without ffmpeg"
                    .into(),
            })
        }
    }
}

/// The extension in small letters; empty where there is none.
pub(crate) fn extension(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}
