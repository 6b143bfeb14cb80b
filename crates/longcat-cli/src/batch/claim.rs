//! Lines that one process makes at a time: lock files beside the results.
//!
//! A claim is a folder of the line's name in `.claims`, with a file for each process that took the line, one
//! after another; the last one holds it. Files are created only where there is none (`create_new`), so that
//! of several processes one succeeds, and written to while the line is worked on, so that their time of
//! change says that the holder lives. A holder that is silent for too long is followed by the next file; the
//! folder is moved away as a whole when the line is done. Nothing depends on the clocks of machines: times
//! are those that the file system gives to files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::heartbeat::{Beating, Heartbeat};
use super::process::Process;

/// The folder of claims among the results.
pub const FOLDER: &str = ".claims";
/// Signs of life within the time after which a holder counts as gone.
const BEATS: u32 = 8;

/// The claims of a process.
pub struct Claims {
    folder: PathBuf,
    me: Process,
    /// Tells this process from all others, also from those of another machine of the same name.
    label: String,
    /// How long a holder may be silent.
    patience: Duration,
    beat: Heartbeat,
    /// Numbers the names of this process.
    made: AtomicUsize,
}

/// What became of taking a line.
pub enum Taken {
    /// It is this process's.
    Mine(Claim),
    /// Another process works on it.
    Held(Process),
}

/// A line that is this process's, until this is dropped.
pub struct Claim {
    /// The folder of the claim.
    folder: PathBuf,
    /// The file that says whose it is.
    file: PathBuf,
    /// Where the folder is moved when the line is done.
    gone: PathBuf,
    /// What is left of the process before, where one was cut off.
    pub left: Option<Left>,
    beating: Beating,
}

/// What a process was at that did not end its claim.
#[derive(Debug)]
pub struct Left {
    pub by: Process,
    pub request: Map<String, Value>,
}

/// What a lock file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    #[serde(flatten)]
    by: Process,
    /// No other lock file has it.
    token: String,
    /// What is being made.
    request: Map<String, Value>,
}

impl Claims {
    /// Claims on the results of a folder; holders that are silent for `patience` count as gone.
    pub fn new(results: &Path, patience: Duration) -> io::Result<Self> {
        let folder = results.join(FOLDER);
        create_folder(&folder)?;
        let me = Process::this();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map(|time| time.as_nanos()).unwrap_or_default();
        Ok(Self {
            folder,
            label: format!("{}.{}.{now}", me.host, me.pid),
            me,
            patience,
            beat: Heartbeat::start(patience / BEATS),
            made: AtomicUsize::new(0),
        })
    }

    /// Takes a line to make `request`, unless a living process has it.
    pub fn take(&self, name: &str, request: &Map<String, Value>) -> io::Result<Taken> {
        let folder = self.folder_of(name);
        loop {
            create_folder(&folder)?;
            let last = match last_of(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                last => last?,
            };
            let (number, before) = match &last {
                None => (1, None),
                Some((number, path)) => {
                    let Some((before, changed)) = look(path)? else {
                        continue;
                    };
                    let held = before.as_ref();
                    let dead = held.is_some_and(|held| held.by.is_known_dead());
                    let gone = dead
                        || match self.age(changed) {
                            // The line is done, and with it the folder of all claims.
                            Err(error) if error.kind() == ErrorKind::NotFound => continue,
                            age => age? > self.patience,
                        };
                    if !gone {
                        let by = held.map_or_else(Process::unknown, |held| held.by.clone());
                        return Ok(Taken::Held(by));
                    }
                    (number + 1, before)
                }
            };
            let path = folder.join(format!("{number}.json"));
            let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => file,
                // Another process was first, or the line is done.
                Err(error) => match error.kind() {
                    ErrorKind::AlreadyExists | ErrorKind::NotFound => continue,
                    _ => return Err(error),
                },
            };
            let held = Held {
                by: self.me.clone(),
                token: self.token(),
                request: request.clone(),
            };
            file.write_all(&serde_json::to_vec(&held)?)?;
            file.sync_data()?;
            // The folder may have been another one: of a claim that began meanwhile.
            if let (Some((_, other)), Some(before)) = (&last, &before) {
                let now = look(other)?.and_then(|(held, _)| held);
                let same = now.is_some_and(|now| now.token == before.token);
                if !same {
                    match fs::remove_file(&path) {
                        // That one is done as well.
                        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                        _ => continue,
                    }
                }
            }
            let gone = format!(".gone.{}", held.token);
            return Ok(Taken::Mine(Claim {
                gone: self.folder.join(gone),
                file: path,
                beating: self.beat.add(file),
                left: before.map(|Held { by, request, .. }| Left { by, request }),
                folder,
            }));
        }
    }

    /// Ends what a process that is gone left of its claim to a line that is done.
    pub fn sweep(&self, name: &str) -> io::Result<()> {
        if self.folder_of(name).exists() {
            drop(self.take(name, &Map::new())?);
        }
        Ok(())
    }

    /// What a process is or was at that has or had a line, where it did not end the claim.
    pub fn request_of(&self, name: &str) -> Option<Map<String, Value>> {
        let (_, path) = last_of(&self.folder_of(name)).ok()??;
        let (held, _) = look(&path).ok()??;
        held.map(|held| held.request)
    }

    fn folder_of(&self, name: &str) -> PathBuf {
        // One folder for names with folders of their own.
        let flat = name.replace('%', "%25").replace(['/', '\\'], "%2F");
        // What begins with a dot is swept away by whoever ends.
        self.folder.join(match flat.strip_prefix('.') {
            Some(rest) => format!("%2E{rest}"),
            None => flat,
        })
    }

    /// A word that is given once.
    fn token(&self) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{}.{number}", self.label)
    }

    /// How long ago the file system saw a file change.
    fn age(&self, changed: SystemTime) -> io::Result<Duration> {
        let probe = self.folder.join(format!(".now.{}", self.token()));
        let now = File::create_new(&probe).and_then(|mut file| {
            file.write_all(b".")?;
            file.sync_data()?;
            file.metadata()?.modified()
        });
        // Another process may have swept it away.
        let _ = fs::remove_file(&probe);
        Ok(now?.duration_since(changed).unwrap_or_default())
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        // What processes left that were cut off at it.
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            }
        }
        // Where nobody has one: else it stays.
        let _ = fs::remove_dir(&self.folder);
    }
}

impl Claim {
    /// Whether no other process took the line meanwhile, which it does where this one was silent for too
    /// long, as a process that was stopped is.
    pub fn is_still_mine(&self) -> bool {
        let last = last_of(&self.folder).ok().flatten();
        last.is_some_and(|(_, path)| path == self.file)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.beating.stop();
        if self.is_still_mine() && fs::rename(&self.folder, &self.gone).is_ok() {
            // What is left of it bothers nobody.
            let _ = fs::remove_dir_all(&self.gone);
        }
    }
}

/// The folder is there afterwards, as is the one of all claims, which the last process removes.
fn create_folder(folder: &Path) -> io::Result<()> {
    /// Each is lost only to a process that ends between the making of the outer folder and the inner one.
    const TRIES: usize = 100;
    let mut tries = 0..TRIES;
    loop {
        match fs::create_dir_all(folder) {
            // The outer one went, or this one was there and went.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
                    && !folder.is_file()
                    && tries.next().is_some() => {}
            made => return made,
        }
    }
}

/// The last file of a claim, with its number.
fn last_of(folder: &Path) -> io::Result<Option<(usize, PathBuf)>> {
    let mut last: Option<(usize, PathBuf)> = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let Some(number) = stem.and_then(|stem| stem.parse().ok()) else {
            continue;
        };
        if last.as_ref().is_none_or(|(before, _)| number > *before) {
            last = Some((number, path));
        }
    }
    Ok(last)
}

/// What a lock file says, if its holder came to write it, and when it changed last; none where it is gone.
fn look(path: &Path) -> io::Result<Option<(Option<Held>, SystemTime)>> {
    let read = || {
        let mut file = File::open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let held = serde_json::from_slice(&text).ok();
        Ok::<_, io::Error>((held, file.metadata()?.modified()?))
    };
    match read() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Barrier;
    use std::thread::scope;

    const LONG: Duration = Duration::from_secs(600);

    fn mine(claims: &Claims, name: &str) -> Option<Claim> {
        match claims.take(name, &Map::new()).unwrap() {
            Taken::Mine(claim) => Some(claim),
            Taken::Held(_) => None,
        }
    }

    /// A claim whose process is gone without having ended it.
    fn leave(results: &Path, name: &str, by: Process) {
        let folder = results.join(FOLDER).join(name);
        fs::create_dir_all(&folder).unwrap();
        let request = serde_json::json!({"prompt": "left"});
        let held = Held {
            by,
            token: "left".into(),
            request: request.as_object().unwrap().clone(),
        };
        fs::write(folder.join("1.json"), serde_json::to_vec(&held).unwrap()).unwrap();
    }

    #[test]
    fn of_many_at_once_one_takes_a_line_and_the_next_one_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let claims: Vec<Claims> = (0..8)
            .map(|_| Claims::new(dir.path(), LONG).unwrap())
            .collect();
        for round in 0..20 {
            if round % 2 == 1 {
                leave(dir.path(), "a%2Fb.mp4", Process::dead());
            }
            let barrier = &Barrier::new(claims.len());
            let taken = scope(|scope| {
                let each = claims.iter().map(|claims| {
                    scope.spawn(move || {
                        barrier.wait();
                        mine(claims, "a/b.mp4")
                    })
                });
                let each: Vec<_> = each.collect();
                let taken = each.into_iter().map(|thread| thread.join().unwrap());
                taken.flatten().collect::<Vec<_>>()
            });
            assert_eq!(taken.len(), 1, "round {round}");
            assert!(taken[0].is_still_mine());
            assert_eq!(taken[0].left.is_some(), round % 2 == 1);
            assert!(mine(&claims[3], "a/b.mp4").is_none());
        }
        drop(claims);
        assert!(!dir.path().join(FOLDER).exists());
    }

    #[test]
    fn claims_outlive_processes_that_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        scope(|scope| {
            for thread in 0..4 {
                let folder = dir.path();
                scope.spawn(move || {
                    for _ in 0..25 {
                        let claims = Claims::new(folder, LONG).unwrap();
                        let one = mine(&claims, &format!(".{thread}.mp4")).unwrap();
                        drop(mine(&claims, "all.mp4"));
                        assert!(one.is_still_mine());
                    }
                });
            }
        });
        assert!(!dir.path().join(FOLDER).exists());
    }

    #[test]
    fn a_silent_holder_is_followed_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let quick = Claims::new(dir.path(), Duration::from_millis(1500)).unwrap();
        let held = mine(&quick, "a.mp4").unwrap();
        leave(dir.path(), "b.mp4", Process::unknown());
        assert!(mine(&quick, "b.mp4").is_none());
        std::thread::sleep(Duration::from_millis(2200));
        assert!(mine(&quick, "a.mp4").is_none());
        let followed = mine(&quick, "b.mp4").unwrap();
        assert_eq!(followed.left.as_ref().unwrap().request["prompt"], "left");
        assert_eq!(quick.request_of("a.mp4"), Some(Map::new()));

        // One that was followed ends nothing.
        held.beating.stop();
        std::thread::sleep(Duration::from_millis(2200));
        let next = mine(&quick, "a.mp4").unwrap();
        assert!(!held.is_still_mine());
        drop(held);
        assert!(next.is_still_mine());
        drop(next);
        assert_eq!(quick.request_of("a.mp4"), None);
    }
}
