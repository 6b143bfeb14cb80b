//! Whether an output can be written, found out before any work by trying.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::partial::Partial;
use crate::{MediaError, OutputFormat, VideoSize};

/// What is going to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PlannedOutput {
    /// A video in the format that the path asks for; the size where it is known.
    Video {
        /// Width and height.
        size: Option<VideoSize>,
        /// Frames per second.
        fps: f64,
    },
    /// A file of another kind.
    File,
    /// A folder of files; it must not exist, or be empty.
    Folder,
}

/// Checks that an output can be written: its name, the folder that it is to lie in, and for a video
/// that its format can hold size and frame rate. A file is made there for a moment.
///
/// What exists is replaced by the writer; whether that is wanted is for the caller to ask.
///
/// # Errors
/// [`MediaError`] names the path and what is wrong: an unknown format, a size or frame rate that it
/// cannot hold, a name that is too long, a folder that is missing, full of files, or not writable.
pub fn check_output(path: &Path, planned: PlannedOutput) -> Result<(), MediaError> {
    let folder = match planned {
        PlannedOutput::Video { size, fps } => {
            let format = OutputFormat::from_path(path)?;
            format.check_rate(path, fps)?;
            if let Some(size) = size {
                format.check_size(path, size)?;
            }
            format == OutputFormat::PngFolder
        }
        PlannedOutput::File => false,
        PlannedOutput::Folder => true,
    };
    let io = |kind: ErrorKind| MediaError::io(path)(kind.into());
    // A name that is too long is told by looking for it.
    match fs::symlink_metadata(path) {
        Ok(_) if folder && !path.is_dir() => return Err(io(ErrorKind::NotADirectory)),
        Ok(_) if !folder && path.is_dir() => return Err(io(ErrorKind::IsADirectory)),
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            return Err(MediaError::io(path)(cause));
        }
        _ => {}
    }
    let absolute = std::path::absolute(path).map_err(MediaError::io(path))?;
    if let Some(parent) = absolute.parent().filter(|parent| !parent.is_dir()) {
        return Err(MediaError::NoFolder {
            path: parent.to_path_buf(),
        });
    }
    // Dropped, it leaves nothing.
    if folder {
        Partial::folder(path).map(drop)
    } else {
        Partial::file(path).map(drop)
    }
}
