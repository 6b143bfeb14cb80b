//! What kind of file a path is, by its ending.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Media;

const VIDEOS: &[&str] = &["mp4", "m4v", "mov", "mkv", "webm", "avi", "gif", "webp"];
const IMAGES: &[&str] = &["png", "jpg", "jpeg", "bmp"];
/// What only ffmpeg reads, pictures as videos of one frame. These endings are used for other things
/// too, so that only a caption makes a clip of such a file.
const BY_FFMPEG: &[&str] = &[
    "ts", "mts", "m2ts", "mpg", "mpeg", "vob", "wmv", "flv", "3gp", "ogv", "mxf", "tif", "tiff",
    "avif", "apng",
];
/// Pictures and videos that are not read.
const UNREAD: &[&str] = &[
    "heic", "heif", "jxl", "jp2", "tga", "psd", "svg", "exr", "hdr", "dng", "cr2", "nef", "arw",
    "rm", "rmvb", "swf",
];

/// What a file is by its ending, and by its first bytes where the ending leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A clip.
    Clip(Media),
    /// A clip if it has a caption.
    WithCaption(Media),
    /// A picture or video that is not read.
    Unread,
    /// Something else.
    Other,
}

impl Kind {
    pub(super) fn of(path: &Path) -> Self {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let extension = extension.to_lowercase();
        let among = |list: &[&str]| list.contains(&extension.as_str());
        if extension == "webp" && is_still_webp(path) || among(IMAGES) {
            Self::Clip(Media::Image)
        } else if among(VIDEOS) {
            Self::Clip(Media::Video)
        } else if among(BY_FFMPEG) {
            Self::WithCaption(Media::Video)
        } else if among(UNREAD) {
            Self::Unread
        } else {
            Self::Other
        }
    }
}

/// Whether a WebP file says that it is no animation.
fn is_still_webp(path: &Path) -> bool {
    let mut head = [0; 21];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    let animated = &head[12..16] == b"VP8X" && head[20] & 0b10 != 0;
    read.is_ok() && &head[..4] == b"RIFF" && &head[8..12] == b"WEBP" && !animated
}

/// Whether a name in a folder is not meant for people: hidden files, copies of resource forks
/// (`._clip.mp4`), and what archives and file servers leave behind.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "__MACOSX" || name == "@eaDir"
}
