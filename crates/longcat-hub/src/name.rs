//! Names of repositories.

use std::fmt;
use std::str::FromStr;

use crate::HubError;

/// Longest name that the hub gives.
const LONGEST: usize = 96;

/// A repository of models on the hub: `OWNER/NAME`, with `@REVISION` for another than `main`.
///
/// ```
/// use longcat_hub::RepoName;
///
/// let name: RepoName = "meituan-longcat/LongCat-Video@v1".parse()?;
/// assert_eq!(name.id(), "meituan-longcat/LongCat-Video");
/// assert_eq!(name.revision(), Some("v1"));
/// assert!("/models/LongCat-Video".parse::<RepoName>().is_err());
/// # Ok::<(), longcat_hub::HubError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    id: String,
    revision: Option<String>,
}

impl RepoName {
    /// `OWNER/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The branch, tag or commit that was named.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The branch, tag or commit: `main` if none was named.
    pub(crate) fn revision_or_main(&self) -> &str {
        self.revision().unwrap_or("main")
    }

    /// The same repository at a branch, tag or commit.
    ///
    /// # Errors
    /// [`HubError::Name`] if that cannot be one.
    pub fn at(&self, revision: &str) -> Result<Self, HubError> {
        format!("{}@{revision}", self.id).parse()
    }
}

impl FromStr for RepoName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let fault = |reason| HubError::Name {
            text: text.to_string(),
            reason,
        };
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let Some((owner, name)) = id.split_once('/') else {
            return Err(fault("there is no / in it"));
        };
        for part in [owner, name] {
            if part.is_empty() || part.len() > LONGEST {
                return Err(fault("owner and name have 1 to 96 characters"));
            }
            if !part.bytes().all(is_plain) {
                return Err(fault("owner and name consist of A-Z, a-z, 0-9, -, _ and ."));
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return Err(fault("owner and name neither start nor end with - or ."));
            }
        }
        if id.contains("--") || id.contains("..") || id.ends_with(".git") {
            return Err(fault("there is no --, no .. and no .git at the end in one"));
        }
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(fault("after @ comes a branch, a tag or a commit"));
        }
        Ok(Self {
            id: id.to_string(),
            revision: revision.map(str::to_string),
        })
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.id),
            None => f.write_str(&self.id),
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// A revision is also the path of a file in the cache.
fn is_revision(text: &str) -> bool {
    is_inner_path(text) && text.len() <= 255
}

/// Whether a text that came from elsewhere names a file below a folder, on every system.
pub(crate) fn is_inner_path(text: &str) -> bool {
    let forbidden = |c: char| c.is_control() || matches!(c, '\\' | ':');
    !text.contains(forbidden)
        && text
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}
