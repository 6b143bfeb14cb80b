//! The folder of a server.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::ServeError;
use crate::studio::JobFiles;

/// `longcat.sqlite3`, `videos/ID/`, `adapters/`, and `incoming/` for what is not accepted yet.
pub(crate) struct Data {
    root: PathBuf,
    /// Held as long as the server lives; the system lets it go however the server ends.
    _lock: File,
}

impl Data {
    /// Makes the folder where it is missing, for this process alone. What was not accepted before is gone.
    pub(crate) fn open(root: &Path) -> Result<Self, ServeError> {
        for folder in ["videos", "adapters"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(ServeError::io(path))?;
        }
        let path = root.join("lock");
        let lock = File::create(&path).map_err(ServeError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServeError::InUse(root.to_path_buf())),
            Err(TryLockError::Error(cause)) => return Err(ServeError::Io { path, cause }),
        }
        let data = Self {
            root: root.to_path_buf(),
            _lock: lock,
        };
        let incoming = data.incoming();
        if incoming.exists() {
            fs::remove_dir_all(&incoming).map_err(ServeError::io(&incoming))?;
        }
        fs::create_dir(&incoming).map_err(ServeError::io(&incoming))?;
        Ok(data)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("longcat.sqlite3")
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(crate) fn adapters(&self) -> PathBuf {
        self.root.join("adapters")
    }

    /// The folder of a job. Ids are made here; what clients send is looked up before it comes here.
    pub(crate) fn files(&self, id: &str) -> JobFiles {
        JobFiles::new(self.root.join("videos").join(id))
    }

    /// Removes folders of jobs that are not known: of such as were not accepted, or removed in part.
    pub(crate) fn sweep(
        &self,
        known: impl Fn(&str) -> Result<bool, ServeError>,
    ) -> Result<(), ServeError> {
        let videos = self.root.join("videos");
        for entry in fs::read_dir(&videos).map_err(ServeError::io(&videos))? {
            let entry = entry.map_err(ServeError::io(&videos))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !known(&name)? {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(ServeError::io(&path))?;
            }
        }
        Ok(())
    }
}
