//! The cache that all programs share which read from the hub: blobs, snapshots, refs.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Serialize;

use crate::HubError;
use crate::name::RepoName;
use crate::selection::is_weights;
use crate::settings::cache_of_env;

/// What a file is called while it is downloaded.
pub(crate) const UNFINISHED: &str = ".incomplete";

/// What <https://bford.info/cachedir/> asks for.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55
# This folder is the cache of the Hugging Face hub.
";

/// The cache of the hub in a folder.
#[derive(Debug, Clone)]
pub struct HubCache {
    cache: Cache,
}

/// The files of a repository at one commit.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// Branches and tags that are known to be at it.
    pub refs: Vec<String>,
    /// The folder that has the files under their names.
    pub path: PathBuf,
    /// The files, by name.
    pub files: Vec<CachedFile>,
    /// What is known not to be there: shards that an index names, files without content.
    pub missing: Vec<String>,
}

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CachedFile {
    /// Its path in the repository.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A repository of models in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct CachedRepo {
    /// `OWNER/NAME`.
    pub name: String,
    /// Bytes of all its files, each counted once.
    pub bytes: u64,
    /// Bytes of downloads that are not finished.
    pub unfinished: u64,
    /// Its commits, those with a branch or tag first.
    pub snapshots: Vec<Snapshot>,
}

impl HubCache {
    /// The cache in a folder, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            cache: Cache::new(folder.into()),
        }
    }

    /// The cache of the environment: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in
    /// `~/.cache/huggingface`.
    ///
    /// # Errors
    /// [`HubError::NoHome`] if nothing says where it is.
    pub fn from_env() -> Result<Self, HubError> {
        Ok(Self::new(cache_of_env()?))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.cache.path()
    }

    /// A snapshot of a repository that has all that it names: that of the named revision; without one
    /// that of `main`, else the one that was changed last.
    ///
    /// # Errors
    /// [`HubError::NotCached`] if there is none, [`HubError::Partial`] if something in it is known to lack,
    /// [`HubError::Io`] if the cache cannot be read.
    pub fn find(&self, name: &RepoName) -> Result<Snapshot, HubError> {
        let paths = self.paths(name);
        let mut lacking = None;
        for commit in paths.commits()? {
            if !paths.snapshot(&commit).is_dir() {
                continue;
            }
            let snapshot = paths.read(&commit)?;
            let weights = snapshot.files.iter().any(|file| is_weights(&file.name));
            let missing = match snapshot.missing.as_slice() {
                [] if weights => return Ok(snapshot),
                [] => "weights".to_string(),
                [one] => one.clone(),
                [one, rest @ ..] => format!("{one} and {} more", rest.len()),
            };
            lacking.get_or_insert(HubError::Partial {
                repo: name.to_string(),
                snapshot: snapshot.path,
                missing,
            });
        }
        Err(lacking.unwrap_or_else(|| HubError::NotCached {
            repo: name.to_string(),
            cache: self.path().to_path_buf(),
        }))
    }

    /// The repositories of models in the cache, by name. A cache that does not exist has none.
    ///
    /// # Errors
    /// [`HubError::Io`] if it cannot be read.
    pub fn repos(&self) -> Result<Vec<CachedRepo>, HubError> {
        let mut repos = Vec::new();
        for folder in entries(self.path())? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            // Names have no -- in them.
            let name = name.strip_prefix("models--").map(|n| n.replace("--", "/"));
            let Some(name) = name.filter(|_| folder.is_dir()) else {
                continue;
            };
            // Repositories of old times have no owner, and none of our models is one.
            if let Ok(name) = name.parse::<RepoName>() {
                repos.push(self.paths(&name).repo(name.id())?);
            }
        }
        repos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(repos)
    }

    /// Tells programs for backups that all this can be downloaded again.
    pub(crate) fn tag(&self) {
        let path = self.path().join("CACHEDIR.TAG");
        if !path.exists() {
            // A cache without it is one as well.
            let _ = fs::write(path, TAG);
        }
    }

    pub(crate) fn paths(&self, name: &RepoName) -> RepoPaths {
        let revision = name.revision_or_main().to_string();
        let repo = Repo::with_revision(name.id().to_string(), RepoType::Model, revision);
        RepoPaths {
            folder: self.path().join(repo.folder_name()),
            locks: self.path().join(".locks").join(repo.folder_name()),
            named: name.revision().map(str::to_string),
            repo: self.cache.repo(repo),
        }
    }
}

/// Where the parts of a repository lie in the cache.
pub(crate) struct RepoPaths {
    folder: PathBuf,
    locks: PathBuf,
    named: Option<String>,
    repo: CacheRepo,
}

impl RepoPaths {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    pub(crate) fn blob(&self, blob: &str) -> PathBuf {
        self.folder.join("blobs").join(blob)
    }

    pub(crate) fn unfinished(&self, blob: &str) -> PathBuf {
        self.blob(&format!("{blob}{UNFINISHED}"))
    }

    /// The lock that Python's `huggingface_hub` takes while it downloads a blob.
    pub(crate) fn lock(&self, blob: &str) -> PathBuf {
        self.locks.join(format!("{blob}.lock"))
    }

    /// Notes that the revision is at a commit; a commit needs no note.
    pub(crate) fn note_revision(&self, commit: &str) -> Result<(), HubError> {
        match self.named.as_deref() == Some(commit) {
            true => Ok(()),
            false => (self.repo.create_ref(commit)).map_err(HubError::io(&self.folder)),
        }
    }

    /// Gives a file of a commit its name: a link to its blob, relative as Python's are, so that the cache
    /// may be moved.
    pub(crate) fn link(&self, commit: &str, name: &str, blob: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(name);
        let blob_path = self.blob(blob);
        if same_file(&pointer, &blob_path) {
            return Ok(());
        }
        let parent = pointer.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(HubError::io(parent))?;
        if pointer.symlink_metadata().is_ok() {
            fs::remove_file(&pointer).map_err(HubError::io(&pointer))?;
        }
        let up = "../".repeat(2 + name.split('/').count() - 1);
        let target = format!("{up}blobs/{blob}");
        match symlink(&target, &blob_path, &pointer) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(HubError::io(&pointer)),
        }
    }

    /// Whether a file of a commit is there under its name.
    pub(crate) fn has(&self, commit: &str, name: &str, size: u64) -> bool {
        is_whole(&self.snapshot(commit).join(name), size)
    }

    /// The commit of the revision that was named, or all, the best first.
    fn commits(&self) -> Result<Vec<String>, HubError> {
        let noted = |revision: &str| {
            let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
            Some(text.trim().to_string())
        };
        if let Some(revision) = &self.named {
            return Ok(vec![noted(revision).unwrap_or_else(|| revision.clone())]);
        }
        let mut snapshots = entries(&self.folder.join("snapshots"))?;
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
        snapshots.sort_by_key(|path| Reverse(changed(path)));
        let names = snapshots.iter().filter_map(|path| path.file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        Ok(noted("main").into_iter().chain(names).collect())
    }

    fn repo(&self, name: &str) -> Result<CachedRepo, HubError> {
        let mut repo = CachedRepo {
            name: name.to_string(),
            bytes: 0,
            unfinished: 0,
            snapshots: Vec::new(),
        };
        for blob in entries(&self.folder.join("blobs"))? {
            // A link into a store of all repositories counts as what it leads to.
            let bytes = fs::metadata(&blob).map_or(0, |file| file.len());
            match blob.to_string_lossy().ends_with(UNFINISHED) {
                true => repo.unfinished += bytes,
                false => repo.bytes += bytes,
            }
        }
        for folder in entries(&self.folder.join("snapshots"))? {
            if let Some(commit) = folder.file_name().filter(|_| folder.is_dir()) {
                repo.snapshots.push(self.read(&commit.to_string_lossy())?);
            }
        }
        (repo.snapshots).sort_by_key(|snapshot| snapshot.refs.is_empty());
        Ok(repo)
    }

    /// What the cache has of a commit.
    pub(crate) fn read(&self, commit: &str) -> Result<Snapshot, HubError> {
        let path = self.snapshot(commit);
        let mut snapshot = Snapshot {
            commit: commit.to_string(),
            refs: self.refs(commit)?,
            path: path.clone(),
            files: Vec::new(),
            missing: Vec::new(),
        };
        for file in files(&path)? {
            let relative = file.strip_prefix(&path).unwrap_or(&file);
            let name = relative.to_string_lossy().replace('\\', "/");
            match fs::metadata(&file) {
                Ok(metadata) => snapshot.files.push(CachedFile {
                    name,
                    bytes: metadata.len(),
                }),
                Err(_) => snapshot.missing.push(name),
            }
        }
        snapshot.files.sort_by(|a, b| a.name.cmp(&b.name));
        let shards = snapshot.files.iter().flat_map(|file| shards(&path, file));
        let missing: Vec<String> = shards.filter(|shard| !path.join(shard).exists()).collect();
        snapshot.missing.extend(missing);
        snapshot.missing.sort();
        snapshot.missing.dedup();
        Ok(snapshot)
    }

    /// Branches and tags at a commit.
    fn refs(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let root = self.folder.join("refs");
        let mut refs = Vec::new();
        for file in files(&root)? {
            if fs::read_to_string(&file).is_ok_and(|text| text.trim() == commit) {
                let name = file.strip_prefix(&root).unwrap_or(&file);
                refs.push(name.to_string_lossy().replace('\\', "/"));
            }
        }
        refs.sort();
        Ok(refs)
    }
}

/// The files that an index of shards names.
fn shards(snapshot: &Path, file: &CachedFile) -> Vec<String> {
    if !file.name.ends_with(".safetensors.index.json") {
        return Vec::new();
    }
    // An index that cannot be read is told of by whoever opens the model.
    let text = fs::read_to_string(snapshot.join(&file.name)).unwrap_or_default();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(map) = index["weight_map"].as_object() else {
        return Vec::new();
    };
    let folder = file.name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut names: Vec<String> = map
        .values()
        .filter_map(|shard| shard.as_str())
        .map(|shard| {
            format!("{folder}/{shard}")
                .trim_start_matches('/')
                .to_string()
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What is in a folder; nothing where it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HubError::io(folder)(error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(HubError::io(folder))
}

/// All that is no folder, in a folder and in those in it.
fn files(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let folder = path.symlink_metadata().is_ok_and(|file| file.is_dir());
        match folder {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

/// Whether a file, or what a link leads to, has so many bytes.
pub(crate) fn is_whole(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() == size)
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(unix)]
fn symlink(target: &str, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

/// Where links are not allowed, the file itself gets the name, as in Python.
#[cfg(windows)]
fn symlink(target: &str, blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), pointer)
        .or_else(|_| fs::rename(blob, pointer))
}
