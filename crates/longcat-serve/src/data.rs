//! The folder of a server.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ServeError;
use crate::id::is_id;
use crate::studio::JobFiles;

/// What the folders of requests that are not accepted yet begin with.
const INCOMING: &str = "request-";

/// `longcat.sqlite3`, `videos/ID/`, `adapters/`, and `incoming/` for what is not accepted yet.
pub(crate) struct Data {
    root: PathBuf,
    /// Held as long as the server lives; the system lets it go however the server ends.
    _lock: File,
}

impl Data {
    /// Makes the folder where it is missing, for this process alone. What was not accepted before is gone.
    pub(crate) fn open(root: &Path) -> Result<Self, ServeError> {
        for folder in ["videos", "adapters", "incoming"] {
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
        let is_request = |name: &str| Ok(name.starts_with(INCOMING));
        remove_folders(&root.join("incoming"), is_request)?;
        Ok(data)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("longcat.sqlite3")
    }

    /// A folder for a request that is not accepted yet; it goes when it is dropped.
    pub(crate) fn new_incoming(&self) -> io::Result<TempDir> {
        let mut folder = tempfile::Builder::new();
        folder
            .prefix(INCOMING)
            .tempdir_in(self.root.join("incoming"))
    }

    pub(crate) fn adapters(&self) -> PathBuf {
        self.root.join("adapters")
    }

    /// The folder of a job. Ids are made here; what clients send is looked up before it comes here.
    pub(crate) fn files(&self, id: &str) -> JobFiles {
        JobFiles::new(self.root.join("videos").join(id))
    }

    /// Makes the folder of a request that of its job, also for a loss of power where the system can see to that.
    pub(crate) fn accept(&self, request: &Path, id: &str) -> io::Result<()> {
        let files = self.files(id);
        fs::rename(request, files.folder())?;
        for folder in [files.folder(), &self.root.join("videos")] {
            // Not every system opens folders, nor every file system syncs them.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// Removes folders of jobs that are not known: of such as were not accepted, or removed in part.
    pub(crate) fn sweep(
        &self,
        known: impl Fn(&str) -> Result<bool, ServeError>,
    ) -> Result<(), ServeError> {
        let is_lost = |name: &str| Ok(is_id(name) && !known(name)?);
        remove_folders(&self.root.join("videos"), is_lost)
    }
}

/// Removes folders in `parent` by their names. What others have put there has other names, and stays.
fn remove_folders(
    parent: &Path,
    goes: impl Fn(&str) -> Result<bool, ServeError>,
) -> Result<(), ServeError> {
    for entry in fs::read_dir(parent).map_err(ServeError::io(parent))? {
        let path = entry.map_err(ServeError::io(parent))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && goes(&name)? {
            fs::remove_dir_all(&path).map_err(ServeError::io(&path))?;
        }
    }
    Ok(())
}
