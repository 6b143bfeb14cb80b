//! Files that appear under their name only when they are complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::MediaError;

/// A file or folder that is being written under a temporary name beside its target, and removed if
/// it is not finished.
pub(crate) struct Partial(longcat_partial::Partial);

impl Partial {
    /// Creates a file that will be called `target`.
    pub(crate) fn file(target: &Path) -> Result<(Self, File), MediaError> {
        let partial = longcat_partial::Partial::new(target);
        let file = File::create(partial.path()).map_err(MediaError::io(target))?;
        Ok((Self(partial), file))
    }

    /// Creates a folder that will be called `target`, which must not exist or be empty.
    pub(crate) fn folder(target: &Path) -> Result<Self, MediaError> {
        if target.exists() {
            let mut entries = fs::read_dir(target).map_err(MediaError::io(target))?;
            if entries.next().is_some() {
                return Err(MediaError::FolderNotEmpty {
                    path: target.to_path_buf(),
                });
            }
        }
        // An absolute path has a name even for `.` and `out/`.
        let target = std::path::absolute(target).map_err(MediaError::io(target))?;
        let target = target.components().collect::<PathBuf>();
        let partial = longcat_partial::Partial::new(&target);
        fs::create_dir_all(partial.path()).map_err(MediaError::io(&target))?;
        Ok(Self(partial))
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives it its name. A file of that name is replaced, an empty folder too.
    pub(crate) fn finish(self) -> Result<(), MediaError> {
        let target = self.0.target().to_path_buf();
        self.0.finish().map_err(MediaError::io(&target))
    }
}
