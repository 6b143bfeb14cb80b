//! Output formats, chosen by the path.

use std::path::Path;

use crate::{MediaError, VideoSize};

/// In which format a video is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// H.264 in an mp4 container.
    Mp4,
    /// Animated GIF: 256 colours per frame, times in hundredths of a second.
    Gif,
    /// Animated WebP, lossless.
    WebP,
    /// A folder of PNG files `frame_00000.png`, `frame_00001.png`, …
    PngFolder,
}

impl OutputFormat {
    /// What `path` asks for: its extension, or a folder when it ends in `/` or is one.
    ///
    /// # Errors
    /// [`MediaError::UnknownFormat`], before anything is computed or written.
    pub fn from_path(path: &Path) -> Result<Self, MediaError> {
        let ends_in_separator = path
            .as_os_str()
            .to_string_lossy()
            .ends_with(std::path::is_separator);
        if ends_in_separator || path.is_dir() {
            return Ok(Self::PngFolder);
        }
        match crate::read::extension(path).as_str() {
            "mp4" => Ok(Self::Mp4),
            "gif" => Ok(Self::Gif),
            "webp" => Ok(Self::WebP),
            _ => Err(MediaError::UnknownFormat {
                path: path.to_path_buf(),
            }),
        }
    }

    /// Whether it can hold so many frames per second.
    pub(crate) fn check_rate(self, path: &Path, fps: f64) -> Result<(), MediaError> {
        let reason = if !(fps.is_finite() && fps > 0.0) {
            "it must be positive"
        } else {
            match self {
                Self::Mp4 if !(0.01..=1000.0).contains(&fps) => {
                    "mp4 needs 0.01 to 1000 frames per second"
                }
                Self::Gif if fps > 50.0 => {
                    "players slow down GIF frames shorter than 1/50 second; name an mp4, or another rate"
                }
                Self::WebP if fps > 90.0 => {
                    "players slow down WebP frames shorter than 11 ms; name an mp4, or another rate"
                }
                Self::Gif | Self::WebP if fps < 0.01 => "it needs 0.01 frames per second or more",
                _ => return Ok(()),
            }
        };
        Err(MediaError::FrameRate {
            path: path.to_path_buf(),
            fps,
            reason,
        })
    }

    /// Whether it can hold frames of this size.
    pub(crate) fn check_size(self, path: &Path, size: VideoSize) -> Result<(), MediaError> {
        let VideoSize { width, height } = size;
        let (long, short) = (width.max(height), width.min(height));
        let reason = if short == 0 {
            "both sides must be positive"
        } else {
            match self {
                Self::Mp4 if !width.is_multiple_of(2) || !height.is_multiple_of(2) => {
                    "mp4 needs even sides; crop or scale by one pixel, or write a GIF or PNG files"
                }
                Self::Mp4 if short < 16 || long > 3840 || short > 2160 => {
                    "the H.264 encoder needs sides from 16 to 3840x2160 (or 2160x3840) pixels"
                }
                Self::Gif if long > 65535 => "GIF sides are at most 65535 pixels",
                Self::WebP if long > 16384 => "WebP sides are at most 16384 pixels",
                Self::PngFolder if long > i32::MAX as usize => "no format has such sides",
                _ => return Ok(()),
            }
        };
        Err(MediaError::Size {
            path: path.to_path_buf(),
            size,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_decides() {
        let format = |path: &str| OutputFormat::from_path(Path::new(path)).ok();
        assert_eq!(format("a/b.mp4"), Some(OutputFormat::Mp4));
        assert_eq!(format("B.MP4"), Some(OutputFormat::Mp4));
        assert_eq!(format("b.gif"), Some(OutputFormat::Gif));
        assert_eq!(format("b.webp"), Some(OutputFormat::WebP));
        assert_eq!(format("frames/"), Some(OutputFormat::PngFolder));
        assert_eq!(format("."), Some(OutputFormat::PngFolder));
        for unknown in ["b.avi", "b.png", "b", ".mp4", ""] {
            assert_eq!(format(unknown), None, "{unknown}");
        }
    }
}
