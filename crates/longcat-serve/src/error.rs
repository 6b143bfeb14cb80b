//! What keeps a server from working.

use std::io;
use std::path::PathBuf;

/// What keeps a server from working.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A file or folder could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The address cannot be listened on.
    #[error("{address}: {cause}; choose another --port")]
    Address {
        /// The address.
        address: String,
        /// The cause.
        cause: io::Error,
    },
    /// Others could reach the server.
    #[error("{0} can be reached from other machines; protect it with --token, or serve 127.0.0.1")]
    NoToken(String),
    /// A token that no header can carry.
    #[error("the token must have 8 to 200 letters, digits, and -._~ only")]
    Token,
    /// Two servers would share a folder.
    #[error("{0}: another server uses this folder; stop it, or name another one with --data")]
    InUse(PathBuf),
    /// The database of jobs.
    #[error("database of jobs: {0}")]
    Database(#[from] rusqlite::Error),
    /// A row of the database of jobs.
    #[error("database of jobs: {0}")]
    Json(#[from] serde_json::Error),
    /// A row of the database of jobs that another version wrote.
    #[error(
        "database of jobs: the status {0:?} is unknown; another version of this program wrote it"
    )]
    Status(String),
}

impl ServeError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }
}
