//! The two checksums that the hub names its files by.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What the name of a blob is computed from. A large file is called by its SHA-256, a small one as git
/// calls it; other hubs may use names that say nothing.
pub(crate) enum Checksum {
    Sha256(Sha256),
    Git(Sha1),
    Unknown,
}

impl Checksum {
    /// The checksum of a blob of so many bytes.
    pub(crate) fn of(blob: &str, size: u64) -> Self {
        let hex = blob
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        match (hex, blob.len()) {
            (true, 64) => Self::Sha256(Sha256::new()),
            (true, 40) => Self::Git(Sha1::new().chain_update(format!("blob {size}\0"))),
            _ => Self::Unknown,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Git(sum) => sum.update(bytes),
            Self::Unknown => {}
        }
    }

    /// The checksum of all bytes; `None` where the name says nothing.
    pub(crate) fn finish(self) -> Option<String> {
        match self {
            Self::Sha256(sum) => Some(format!("{:x}", sum.finalize())),
            Self::Git(sum) => Some(format!("{:x}", sum.finalize())),
            Self::Unknown => None,
        }
    }
}
