//! Files and folders that get their name when they are whole.
//!
//! Until then they are hidden beside it, as `.NAME.PROCESS.NUMBER.partial`: [`Partial`] knows the name, removes
//! what is not finished when it is dropped, and [`sweep`] and [`sweep_folder`] what a process left that was killed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

const ENDING: &str = ".partial";
/// Bytes of the name that the temporary one has: with what is added a longer one would be too long for file
/// systems.
const MOST: usize = 200;

/// A file or folder that is being written under a temporary name beside its own, and removed if it is not
/// finished.
#[derive(Debug)]
pub struct Partial {
    target: PathBuf,
    /// None once it has its name.
    temporary: Option<PathBuf>,
}

impl Partial {
    /// What will be called `target`. Nothing is made yet. The name is one that no other call has, of this process
    /// or another, also of another machine.
    pub fn new(target: &Path) -> Self {
        /// From the time on, in nanoseconds: in containers all processes have the same few numbers, and a folder
        /// would be filled up that one of them left which was killed.
        static MADE: LazyLock<AtomicU64> = LazyLock::new(|| {
            let now = UNIX_EPOCH.elapsed().unwrap_or_default();
            AtomicU64::new(now.as_nanos() as u64)
        });
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}{ENDING}", start_of(target, process::id()));
        Self {
            temporary: Some(target.with_file_name(name)),
            target: target.to_path_buf(),
        }
    }

    /// Where it is now: what is written goes there.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// What it will be called.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives it its name. A file of that name is replaced, an empty folder too.
    ///
    /// # Errors
    /// Those of renaming; it is removed then.
    pub fn finish(mut self) -> io::Result<()> {
        if self.target.is_dir() {
            fs::remove_dir(&self.target)?;
        }
        fs::rename(self.path(), &self.target)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            remove(path);
        }
    }
}

/// Removes what a process that is gone left of something that was to be called `target`.
pub fn sweep(target: &Path, process: u32) {
    let start = start_of(target, process);
    // A relative path of one part lies in a folder that has no name.
    let parent = target.parent().filter(|parent| *parent != Path::new(""));
    remove_those(parent.unwrap_or(Path::new(".")), |name| {
        name.starts_with(&start)
    });
}

/// Removes what is not finished in a folder of all whose names begin with `start`. Nobody else may be writing
/// such files there.
pub fn sweep_folder(folder: &Path, start: &str) {
    let start = format!(".{start}");
    remove_those(folder, |name| name.starts_with(&start));
}

/// Whether this is the name of something that is not finished.
pub fn is_partial(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let Some(rest) = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(ENDING))
    else {
        return false;
    };
    let mut parts = rest.rsplitn(3, '.');
    let numbers = parts
        .by_ref()
        .take(2)
        .filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    numbers.count() == 2 && parts.next().is_some()
}

/// How the temporary names begin that a process gives.
fn start_of(target: &Path, process: u32) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut end = name.len().min(MOST);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}.{process}.", &name[..end])
}

fn remove_those(folder: &Path, goes: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if is_partial(&name) && goes(&name.to_string_lossy()) {
            remove(&entry.path());
        }
    }
}

/// What cannot be removed only takes room.
fn remove(path: &Path) {
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_finished_has_its_name_and_all_else_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.mp4");
        fs::write(&target, "old").unwrap();
        let [first, second] = [Partial::new(&target), Partial::new(&target)];
        for (partial, text) in [(&first, "first"), (&second, "second")] {
            fs::write(partial.path(), text).unwrap();
        }
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert!(
            names(dir.path())[..2]
                .iter()
                .all(|name| is_partial(OsStr::new(name)))
        );
        second.finish().unwrap();
        drop(first);
        assert_eq!(names(dir.path()), ["a.mp4"]);
        assert_eq!(fs::read(&target).unwrap(), b"second");

        // A folder takes the place of an empty one, and of no other.
        let folder = dir.path().join("frames");
        for (there, ends) in [(false, true), (true, false)] {
            let partial = Partial::new(&folder);
            fs::create_dir(partial.path()).unwrap();
            fs::write(partial.path().join("0.png"), "").unwrap();
            assert_eq!(folder.is_dir(), there);
            assert_eq!(partial.finish().is_ok(), ends);
        }
        assert_eq!(names(dir.path()), ["a.mp4", "frames"]);
    }

    #[test]
    fn the_longest_names_fit() {
        let dir = tempfile::tempdir().unwrap();
        let name = "ü".repeat(127);
        let partial = Partial::new(&dir.path().join(&name));
        fs::write(partial.path(), "").unwrap();
        partial.finish().unwrap();
        assert_eq!(names(dir.path()), [name]);
    }

    #[test]
    fn what_a_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let left = [".a.mp4.7.0.partial", ".a.mp4.7.12.partial"];
        let others = ["a.mp4", ".a.mp4.71.0.partial", ".b.a.mp4.7.2.partial"];
        let foreign = [
            ".a.mp4.7.partial",
            "a.mp4.7.0.partial",
            ".partial",
            ".a.mp4.7.x.partial",
        ];
        for name in left.iter().chain(&others).chain(&foreign) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join(".a.mp4.7.3.partial")).unwrap();
        sweep(&dir.path().join("a.mp4"), 7);
        let mut stay: Vec<&str> = others.iter().chain(&foreign).copied().collect();
        stay.sort_unstable();
        assert_eq!(names(dir.path()), stay);
        sweep_folder(dir.path(), "b.");
        stay.retain(|name| !name.starts_with(".b."));
        assert_eq!(names(dir.path()), stay);
        sweep_folder(dir.path(), "");
        let mut stay: Vec<&str> = foreign.iter().copied().chain(["a.mp4"]).collect();
        stay.sort_unstable();
        assert_eq!(names(dir.path()), stay);
    }
}
