//! The files of a repository, as the hub lists them.

use serde::Deserialize;

use crate::name::is_inner_path;

/// A file of a repository on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What the cache calls its content: the SHA-256 of a large file, git's SHA-1 of a small one.
    pub blob: String,
}

/// A file as it is listed; a hub may leave out size and blob.
#[derive(Debug, Clone)]
pub(crate) struct ListedFile {
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    pub(crate) blob: Option<String>,
}

/// All files of one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<ListedFile>,
}

#[derive(Deserialize)]
struct Repository {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Reads an answer; the error says what is wrong with it. Names become paths, and are checked here.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let repository: Repository =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let commit = repository.sha;
        if !is_blob(&commit) {
            return Err(format!("the commit {commit:?}"));
        }
        let mut files = Vec::with_capacity(repository.siblings.len());
        for sibling in repository.siblings {
            let name = sibling.rfilename;
            if !is_inner_path(&name) {
                return Err(format!("the file name {name:?}"));
            }
            let (size, blob) = match sibling.lfs {
                Some(lfs) => (lfs.size.or(sibling.size), lfs.sha256),
                None => (sibling.size, sibling.blob_id),
            };
            if let Some(blob) = blob.as_ref().filter(|blob| !is_blob(blob)) {
                return Err(format!("{name}: the blob {blob:?}"));
            }
            files.push(ListedFile { name, size, blob });
        }
        Ok(Self { commit, files })
    }
}

/// Whether a text can be the name of a file in the cache.
pub(crate) fn is_blob(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= 128 && text.bytes().all(plain)
}
