//! Bringing a repository into the cache.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::cache::{HubCache, RepoPaths, Snapshot, is_whole};
use crate::client::Client;
use crate::download::{Download, Shared};
use crate::listing::RemoteFile;
use crate::name::RepoName;
use crate::selection::Selection;
use crate::{HubError, HubSettings};

/// How a repository is pulled.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Files that come at the same time.
    pub at_once: usize,
    /// Attempts in a row that bring nothing, after which a connection counts as broken for good.
    pub retries: u32,
    /// The wait before the second attempt; each further one is twice as long, up to 32 times.
    pub wait: Duration,
    /// How long a server may say nothing.
    pub patience: Duration,
    /// Free bytes of the disk that has a folder.
    pub free_space: fn(&Path) -> io::Result<u64>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            at_once: 4,
            retries: 5,
            wait: Duration::from_secs(1),
            patience: Duration::from_secs(20),
            free_space: |folder| fs4::available_space(folder),
        }
    }
}

/// A file to pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// What the hub says of it.
    pub file: RemoteFile,
    /// Bytes of it that are in the cache already.
    pub present: u64,
}

/// What a pull will bring.
#[derive(Debug, Clone)]
pub struct PullPlan {
    /// The repository.
    pub name: RepoName,
    /// The commit that its revision is at.
    pub commit: String,
    /// The files, small ones first.
    pub files: Vec<PlannedFile>,
}

impl PullPlan {
    /// Bytes of all files.
    pub fn total(&self) -> u64 {
        self.files.iter().map(|planned| planned.file.size).sum()
    }

    /// Bytes that are still to come.
    pub fn to_come(&self) -> u64 {
        let present: u64 = self.files.iter().map(|planned| planned.present).sum();
        self.total() - present
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bytes that are there, those of earlier runs among them.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
    /// Names of the files that come just now.
    pub current: Vec<String>,
    /// What happened since the last time that the user should see: broken connections, waiting for another
    /// program.
    pub notes: Vec<String>,
}

/// A hub and its cache.
pub struct Hub {
    settings: HubSettings,
    cache: HubCache,
    options: PullOptions,
}

impl Hub {
    /// The hub that settings name.
    pub fn new(settings: HubSettings, options: PullOptions) -> Self {
        Self {
            cache: HubCache::new(&settings.cache),
            settings,
            options,
        }
    }

    /// The cache.
    pub fn cache(&self) -> &HubCache {
        &self.cache
    }

    /// Asks the hub which files a pull brings. Nothing is written.
    ///
    /// # Errors
    /// [`HubError::Offline`] if the hub may not be asked, [`HubError::Connection`] if it cannot be reached,
    /// [`HubError::Refused`] with its status and what to do, [`HubError::NoFiles`] and
    /// [`HubError::Choice`] if the selection chooses nothing or too much.
    pub fn plan(&self, name: &RepoName, selection: &Selection) -> Result<PullPlan, HubError> {
        let client = self.client(name)?;
        let listing = client.listing(name)?;
        let commit = listing.commit;
        let paths = self.cache.paths(name);
        let mut files = Vec::new();
        for file in selection.choose(name.id(), listing.files)? {
            let file = match (file.size, file.blob) {
                (Some(size), Some(blob)) => RemoteFile {
                    name: file.name,
                    size,
                    blob,
                },
                _ => client.details(name, &commit, &file.name)?,
            };
            let present = present(&paths, &commit, &file);
            files.push(PlannedFile { file, present });
        }
        files.sort_by(|a, b| (a.file.size, &a.file.name).cmp(&(b.file.size, &b.file.name)));
        Ok(PullPlan {
            name: name.clone(),
            commit,
            files,
        })
    }

    /// Brings the files of a plan into the cache, several at once, and names them as Python's
    /// `huggingface_hub` does. What an earlier run left is gone on with; each file gets its name when its
    /// checksum is right, and the revision moves to the new commit when all files are there. `observe` is
    /// told about ten times a second how far it is, and says whether to go on.
    ///
    /// # Errors
    /// [`HubError::DiskFull`] before anything is written; [`HubError::Interrupted`] if `observe` says so;
    /// [`HubError::Connection`] and [`HubError::Refused`] after some attempts; [`HubError::Checksum`];
    /// [`HubError::Io`]. After each the same call goes on where it stopped.
    pub fn pull(
        &self,
        plan: &PullPlan,
        observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Snapshot, HubError> {
        let client = self.client(&plan.name)?;
        let paths = self.cache.paths(&plan.name);
        self.check_space(plan, &paths)?;
        let blobs = paths.blob("");
        fs::create_dir_all(&blobs).map_err(HubError::io(&blobs))?;
        self.cache.tag();
        let shared = Shared::default();
        (shared.done).store(plan.total() - plan.to_come(), Ordering::SeqCst);
        let download = Download {
            client: &client,
            paths: &paths,
            name: &plan.name,
            commit: &plan.commit,
            options: &self.options,
            shared: &shared,
        };
        self.in_threads(plan, &download, observe)?;
        paths.note_revision(&plan.commit)?;
        paths.read(&plan.commit)
    }

    /// What the cache has of a repository, without asking the hub.
    ///
    /// # Errors
    /// [`HubError::Offline`] if it is not there or lacks something, [`HubError::Io`].
    pub fn offline(&self, name: &RepoName) -> Result<Snapshot, HubError> {
        let endpoint = self.settings.endpoint.clone();
        self.cache.find(name).map_err(|error| match error {
            HubError::NotCached { repo, cache } => HubError::Offline {
                found: format!("{repo} is not in the cache at {}", cache.display()),
                endpoint,
            },
            HubError::Partial { repo, missing, .. } => HubError::Offline {
                found: format!("{repo} is in the cache only in part, without {missing}"),
                endpoint,
            },
            other => other,
        })
    }

    fn client(&self, name: &RepoName) -> Result<Client, HubError> {
        if self.settings.offline {
            return Err(HubError::Offline {
                found: format!("the files of {name} are to be listed"),
                endpoint: self.settings.endpoint.clone(),
            });
        }
        Client::new(&self.settings, self.options.patience)
    }

    fn check_space(&self, plan: &PullPlan, paths: &RepoPaths) -> Result<(), HubError> {
        let needed = plan.to_come();
        let folders = paths.folder().ancestors();
        let existing = folders.into_iter().find(|folder| folder.is_dir());
        let folder = existing.unwrap_or(self.cache.path());
        // A disk that does not tell is found full when it is.
        match (self.options.free_space)(folder) {
            Ok(free) if free < needed => Err(HubError::DiskFull {
                path: folder.to_path_buf(),
                needed,
                free,
            }),
            _ => Ok(()),
        }
    }

    fn in_threads(
        &self,
        plan: &PullPlan,
        download: &Download,
        observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(), HubError> {
        let shared = download.shared;
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = || {
            while let Some(planned) = plan.files.get(next.fetch_add(1, Ordering::SeqCst)) {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Err(error) = download.file(planned) else {
                    continue;
                };
                // The first error is the cause; others follow from stopping.
                if let Ok(mut failed) = failed.lock() {
                    failed.get_or_insert(error);
                }
                shared.stop.store(true, Ordering::SeqCst);
            }
        };
        thread::scope(|scope| {
            let (alive, ended) = channel::<()>();
            for _ in 0..self.options.at_once.clamp(1, plan.files.len().max(1)) {
                let alive = alive.clone();
                scope.spawn(move || {
                    work();
                    drop(alive);
                });
            }
            drop(alive);
            loop {
                let waited = ended.recv_timeout(Duration::from_millis(100));
                if observe(&progress(shared, plan.total())).is_break() {
                    shared.stop.store(true, Ordering::SeqCst);
                }
                if waited == Err(RecvTimeoutError::Disconnected) {
                    break;
                }
            }
        });
        let failed = failed.into_inner().ok().flatten();
        match failed {
            Some(error) => Err(error),
            None if shared.stop.load(Ordering::SeqCst) => Err(HubError::Interrupted),
            None => Ok(()),
        }
    }
}

/// Bytes of a file that the cache has.
fn present(paths: &RepoPaths, commit: &str, file: &RemoteFile) -> u64 {
    let named = paths.has(commit, &file.name, file.size);
    if named || is_whole(&paths.blob(&file.blob), file.size) {
        return file.size;
    }
    let unfinished = fs::metadata(paths.unfinished(&file.blob));
    unfinished.map_or(0, |found| match found.len() {
        length if length > file.size => 0,
        length => length,
    })
}

fn progress(shared: &Shared, total: u64) -> Progress {
    let current = shared.current.lock();
    let notes = shared.notes.lock();
    Progress {
        done: shared.done.load(Ordering::SeqCst),
        total,
        current: current.map(|names| names.clone()).unwrap_or_default(),
        notes: notes
            .map(|mut notes| std::mem::take(&mut *notes))
            .unwrap_or_default(),
    }
}

/// The folder of a model that `--model` names: a folder, or a repository in the cache of the environment,
/// however it came there. What is neither is given back as it is, for the error of whoever opens it.
///
/// # Errors
/// [`HubError::NotCached`] and [`HubError::Partial`] say how to download it.
pub fn find_model(model: &Path) -> Result<PathBuf, HubError> {
    match HubCache::from_env() {
        Ok(cache) => cache.find_model(model),
        Err(_) => Ok(model.to_path_buf()),
    }
}

impl HubCache {
    /// As [`find_model`], in this cache.
    ///
    /// # Errors
    /// As [`find_model`].
    pub fn find_model(&self, model: &Path) -> Result<PathBuf, HubError> {
        let name = model
            .to_str()
            .and_then(|text| text.parse::<RepoName>().ok());
        match name {
            Some(name) if !model.exists() => Ok(self.find(&name)?.path),
            _ => Ok(model.to_path_buf()),
        }
    }
}
