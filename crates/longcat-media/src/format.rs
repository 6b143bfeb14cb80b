//! Output formats, chosen by the path.

use std::path::Path;

use crate::MediaError;

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
