//! One file on its way into the cache.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::HubError;
use crate::cache::{RepoPaths, is_whole};
use crate::checksum::Checksum;
use crate::client::{Client, connection};
use crate::listing::RemoteFile;
use crate::name::RepoName;
use crate::pull::{PlannedFile, PullOptions};

/// Bytes that are read at a time.
const PIECE: usize = 256 * 1024;

/// How often a wait looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// How long a wait for another program is not worth telling.
const UNTOLD: Duration = Duration::from_secs(1);

/// What the threads of a pull share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Bytes of all files that are there.
    pub(crate) done: AtomicU64,
    pub(crate) stop: AtomicBool,
    /// Files that come just now.
    pub(crate) current: Mutex<Vec<String>>,
    /// What to tell the user.
    pub(crate) notes: Mutex<Vec<String>>,
}

/// A repository that comes into the cache.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) paths: &'a RepoPaths,
    pub(crate) name: &'a RepoName,
    pub(crate) commit: &'a str,
    pub(crate) options: &'a PullOptions,
    pub(crate) shared: &'a Shared,
}

/// What is there of a file.
struct Unfinished {
    file: File,
    checksum: Checksum,
    at: u64,
}

/// Bytes of one file among those of all.
struct Counter<'a> {
    all: &'a AtomicU64,
    counted: u64,
}

impl Counter<'_> {
    fn set(&mut self, bytes: u64) {
        match bytes >= self.counted {
            true => self.all.fetch_add(bytes - self.counted, Ordering::SeqCst),
            false => self.all.fetch_sub(self.counted - bytes, Ordering::SeqCst),
        };
        self.counted = bytes;
    }
}

impl Download<'_> {
    /// Brings a file and gives it its name.
    ///
    /// # Errors
    /// As [`crate::Hub::pull`].
    pub(crate) fn file(&self, planned: &PlannedFile) -> Result<(), HubError> {
        let file = &planned.file;
        if self.paths.has(self.commit, &file.name, file.size) {
            return self.forget_unfinished(file);
        }
        push(&self.shared.current, &file.name);
        let mut counter = Counter {
            all: &self.shared.done,
            counted: planned.present,
        };
        let result = self.blob(file, &mut counter);
        if let Ok(mut current) = self.shared.current.lock() {
            current.retain(|name| *name != file.name);
        }
        result?;
        self.paths.link(self.commit, &file.name, &file.blob)
    }

    /// Brings the content of a file, unless another program does so first.
    fn blob(&self, file: &RemoteFile, counter: &mut Counter) -> Result<(), HubError> {
        let _lock = self.lock(file)?;
        let blob = self.paths.blob(&file.blob);
        let unfinished = self.paths.unfinished(&file.blob);
        if is_whole(&blob, file.size) {
            counter.set(file.size);
            return remove(&unfinished);
        }
        loop {
            let resumed = fs::metadata(&unfinished).is_ok_and(|found| found.len() > 0);
            let (opened, found) = self.fill(file, &unfinished, counter)?;
            let Some(found) = found.filter(|found| *found != file.blob) else {
                opened.sync_all().map_err(HubError::io(&unfinished))?;
                return fs::rename(&unfinished, &blob).map_err(HubError::io(&blob));
            };
            drop(opened);
            remove(&unfinished)?;
            counter.set(0);
            let url = self.client.file_url(self.name, self.commit, &file.name);
            if !resumed {
                return Err(HubError::Checksum {
                    url,
                    expected: file.blob.clone(),
                    found,
                });
            }
            // What an earlier run, or another program, left may be at fault.
            self.note(format!(
                "{url}: wrong after going on with what was there; from the start"
            ));
        }
    }

    /// Removes what an earlier run left of a file that another program has brought since.
    fn forget_unfinished(&self, file: &RemoteFile) -> Result<(), HubError> {
        let unfinished = self.paths.unfinished(&file.blob);
        if !unfinished.exists() {
            return Ok(());
        }
        let _lock = self.lock(file)?;
        remove(&unfinished)
    }

    /// Downloads what lacks; gives the file and its checksum.
    fn fill(
        &self,
        file: &RemoteFile,
        path: &Path,
        counter: &mut Counter,
    ) -> Result<(File, Option<String>), HubError> {
        let mut part = self.begin(file, path)?;
        counter.set(part.at);
        let mut failures = 0;
        while part.at < file.size {
            let before = part.at;
            let result = self.stream(file, path, &mut part, counter);
            self.check_stop()?;
            let Err(error) = result else { continue };
            failures = if part.at > before { 1 } else { failures + 1 };
            if !error.passes() || failures > self.options.retries {
                return Err(error);
            }
            let wait = self.options.wait * (1 << (failures - 1).min(5));
            self.note(format!("{error:#}; trying again"));
            let until = Instant::now() + wait;
            while Instant::now() < until {
                self.check_stop()?;
                std::thread::sleep(TICK.min(wait));
            }
        }
        Ok((part.file, part.checksum.finish()))
    }

    /// Opens what an earlier run left, and takes its checksum.
    fn begin(&self, file: &RemoteFile, path: &Path) -> Result<Unfinished, HubError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut opened = options.open(path).map_err(HubError::io(path))?;
        let mut checksum = Checksum::of(&file.blob, file.size);
        let length = opened.metadata().map_err(HubError::io(path))?.len();
        if length > file.size {
            opened.set_len(0).map_err(HubError::io(path))?;
        }
        let mut at = 0;
        let mut piece = vec![0; PIECE];
        loop {
            self.check_stop()?;
            let count = opened.read(&mut piece).map_err(HubError::io(path))?;
            if count == 0 {
                break;
            }
            checksum.update(&piece[..count]);
            at += count as u64;
        }
        Ok(Unfinished {
            file: opened,
            checksum,
            at,
        })
    }

    /// Downloads until the file ends or the connection breaks.
    fn stream(
        &self,
        file: &RemoteFile,
        path: &Path,
        part: &mut Unfinished,
        counter: &mut Counter,
    ) -> Result<(), HubError> {
        let incoming = self
            .client
            .open(self.name, self.commit, &file.name, part.at)?;
        let url = incoming.url;
        let wrong = |reason: String| HubError::Answer {
            url: url.clone(),
            reason,
        };
        if let Some(total) = incoming.total.filter(|total| *total != file.size) {
            let reason = format!("a file of {total} bytes that was listed with {}", file.size);
            return Err(wrong(reason));
        }
        if incoming.start == 0 && part.at > 0 {
            // A server that cannot send parts.
            part.file.set_len(0).map_err(HubError::io(path))?;
            part.checksum = Checksum::of(&file.blob, file.size);
            part.at = 0;
            counter.set(0);
        }
        if incoming.start != part.at {
            let reason = format!("bytes from {}, asked from {}", incoming.start, part.at);
            return Err(wrong(reason));
        }
        let mut reader = incoming.reader;
        let mut piece = vec![0; PIECE];
        while part.at < file.size {
            self.check_stop()?;
            let count = match reader.read(&mut piece) {
                Ok(0) => return Err(connection(&url, &"the connection ended early")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(connection(&url, &error)),
            };
            if part.at + count as u64 > file.size {
                return Err(wrong(format!("more than {} bytes", file.size)));
            }
            part.file
                .write_all(&piece[..count])
                .map_err(|cause| match cause.kind() {
                    ErrorKind::StorageFull => HubError::DiskFull {
                        path: path.to_path_buf(),
                        needed: file.size - part.at,
                        free: 0,
                    },
                    _ => HubError::io(path)(cause),
                })?;
            part.checksum.update(&piece[..count]);
            part.at += count as u64;
            counter.set(part.at);
        }
        Ok(())
    }

    /// Waits until no other program downloads the blob. Where the file system knows no locks, the checksum
    /// tells if two did.
    fn lock(&self, file: &RemoteFile) -> Result<Option<File>, HubError> {
        let path = self.paths.lock(&file.blob);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let opened = options.open(&path).map_err(HubError::io(&path))?;
        share(&opened);
        let began = Instant::now();
        let mut told = false;
        loop {
            match opened.try_lock() {
                Ok(()) => return Ok(Some(opened)),
                Err(TryLockError::Error(_)) => return Ok(None),
                // Files with the same content wait for each other for a moment.
                Err(TryLockError::WouldBlock) if told || began.elapsed() < UNTOLD => {}
                Err(TryLockError::WouldBlock) => {
                    told = true;
                    self.note(format!(
                        "{}: another program downloads it; waiting for that",
                        file.name
                    ));
                }
            }
            self.check_stop()?;
            std::thread::sleep(TICK);
        }
    }

    fn check_stop(&self) -> Result<(), HubError> {
        match self.shared.stop.load(Ordering::SeqCst) {
            true => Err(HubError::Interrupted),
            false => Ok(()),
        }
    }

    fn note(&self, text: String) {
        push(&self.shared.notes, &text);
    }
}

fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(HubError::io(path)(error)),
        _ => Ok(()),
    }
}

/// Lets the group take a lock, too, as Python does, for caches that people share. What belongs to somebody
/// else stays as it is.
#[cfg(unix)]
fn share(lock: &File) {
    use std::os::unix::fs::PermissionsExt;
    let _ = lock.set_permissions(fs::Permissions::from_mode(0o664));
}

#[cfg(not(unix))]
fn share(_lock: &File) {}

fn push(list: &Mutex<Vec<String>>, text: &str) {
    if let Ok(mut list) = list.lock() {
        list.push(text.to_string());
    }
}
