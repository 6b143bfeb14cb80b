//! What can go wrong with the hub and its cache.

use std::path::{Path, PathBuf};

/// What can go wrong with the hub and its cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text is no name of a repository.
    #[error(
        "{text:?} is no name of a repository: {reason}; write OWNER/NAME or OWNER/NAME@REVISION"
    )]
    Name {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A pattern of file names cannot be read.
    #[error("the pattern {pattern:?} of file names cannot be read: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing says where the cache is.
    #[error("there is no home folder to keep the cache in; set HF_HOME or HF_HUB_CACHE")]
    NoHome,
    /// A token holds what no header may.
    #[error("the token of {from} holds characters that no token has; write it anew")]
    Token {
        /// The variable or file.
        from: String,
    },
    /// A repository is not in the cache.
    #[error(
        "{repo}: neither a folder nor in the cache at {cache}; `longcat pull {repo}` downloads it"
    )]
    NotCached {
        /// Its name.
        repo: String,
        /// The folder of the cache.
        cache: PathBuf,
    },
    /// A repository is in the cache only in part.
    #[error(
        "{repo} is in the cache only in part ({snapshot} lacks {missing}); `longcat pull {repo}` downloads the rest"
    )]
    Partial {
        /// Its name.
        repo: String,
        /// The folder in the cache.
        snapshot: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// The network may not be asked.
    #[error("{found}, and HF_HUB_OFFLINE forbids to ask {endpoint}; unset it")]
    Offline {
        /// What the cache has of it.
        found: String,
        /// The hub.
        endpoint: String,
    },
    /// The hub answers with an error.
    #[error("{url}: {status}{message}; {advice}")]
    Refused {
        /// What was asked.
        url: String,
        /// The status of the answer.
        status: u16,
        /// What the hub says, in brackets.
        message: String,
        /// What to do.
        advice: String,
    },
    /// The hub cannot be reached, or a connection broke.
    #[error(
        "{url}: {cause}; check the network (HF_ENDPOINT names another hub), then run the same command again, it goes on where it stopped"
    )]
    Connection {
        /// What was asked.
        url: String,
        /// The cause.
        cause: String,
    },
    /// The system has no certificates to know servers by.
    #[error(
        "no certificates of authorities on this system{0}; install the package ca-certificates, or name a file with SSL_CERT_FILE"
    )]
    NoCertificates(String),
    /// An answer is not one of the hub.
    #[error("{url}: not an answer of the hub: {reason}; check HF_ENDPOINT")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No file of a repository was chosen.
    #[error("{repo} has no {what}; it has {files}")]
    NoFiles {
        /// Its name.
        repo: String,
        /// What was looked for.
        what: String,
        /// What is there.
        files: String,
    },
    /// A repository has several models of which one is enough.
    #[error(
        "{repo} has several models of which one is enough: {files}; choose with --include, as in --include {example:?}, or --include '*' for all"
    )]
    Choice {
        /// Its name.
        repo: String,
        /// The files with their sizes.
        files: String,
        /// A pattern that chooses one.
        example: String,
    },
    /// The disk is too small.
    #[error("{path}: {} are needed and {} are free; make room, or set HF_HUB_CACHE to a folder on a larger disk", bytes(*needed), bytes(*free))]
    DiskFull {
        /// The folder of the cache.
        path: PathBuf,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What came is not what the hub announced.
    #[error(
        "{url}: the checksum is {found} and should be {expected}; nothing of it was kept, run the same command again"
    )]
    Checksum {
        /// What was asked.
        url: String,
        /// What the hub announced.
        expected: String,
        /// What came.
        found: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The caller stopped the work.
    #[error("stopped; the same command goes on where it stopped")]
    Interrupted,
}

impl HubError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |cause| Self::Io {
            path: path.to_path_buf(),
            cause,
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Connection { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// A number of bytes for people: `27.1 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = "bytes";
    for next in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    let digits = usize::from(unit != "bytes");
    format!("{size:.digits$} {unit}")
}
