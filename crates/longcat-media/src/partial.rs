//! Files that appear under their name only when they are complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::MediaError;

/// A file or folder that is being written under a temporary name beside its target, and removed if
/// it is not finished.
pub(crate) struct Partial {
    target: PathBuf,
    temporary: Option<PathBuf>,
}

impl Partial {
    fn new(target: &Path) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // What is added would make a long name too long.
        let mut end = name.len().min(200);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let temporary = target.with_file_name(format!(
            ".{}.{}.{}.partial",
            &name[..end],
            std::process::id(),
            MADE.fetch_add(1, Ordering::Relaxed)
        ));
        Self {
            target: target.to_path_buf(),
            temporary: Some(temporary),
        }
    }

    /// Creates a file that will be called `target`.
    pub(crate) fn file(target: &Path) -> Result<(Self, File), MediaError> {
        let partial = Self::new(target);
        let file = File::create(partial.path()).map_err(MediaError::io(target))?;
        Ok((partial, file))
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
        let partial = Self::new(&target);
        fs::create_dir_all(partial.path()).map_err(MediaError::io(&target))?;
        Ok(partial)
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// Gives it its name. A file of that name is replaced, an empty folder too.
    pub(crate) fn finish(mut self) -> Result<(), MediaError> {
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(MediaError::io(&self.target))?;
        }
        fs::rename(self.path(), &self.target).map_err(MediaError::io(&self.target))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            // Nothing can be done about a failure here, and the error that led here matters more.
            let _ = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
        }
    }
}
