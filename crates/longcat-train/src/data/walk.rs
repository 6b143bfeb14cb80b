//! Searching a folder with its subfolders.

use std::collections::{BTreeSet, HashSet};
use std::fs::{read_dir, read_link};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::Ignored;
use super::kind::{Kind, is_hidden};
use crate::TrainError;
use crate::observe::stop;

/// What a training run writes beside its `metrics.jsonl`.
const OF_A_RUN: &[&str] = &["samples", "checkpoints", "cache"];

/// Files of a folder and its subfolders, sorted, and what was left out.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub files: Vec<PathBuf>,
    pub ignored: Vec<Ignored>,
}

/// Searches `root`, but not the folders `without` (canonical), nor what is hidden or was written by
/// training runs. Each folder is searched once, however many links lead to it.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Interrupted`].
pub(super) fn walk(
    root: &Path,
    without: &[PathBuf],
    interrupt: &AtomicBool,
) -> Result<Walked, TrainError> {
    let mut walked = Walked::default();
    let mut seen = HashSet::new();
    let mut folders = vec![root.to_path_buf()];
    // Links come last and in order, so that a folder is found by its own name if it has one.
    let mut links = BTreeSet::new();
    while let Some(folder) = folders.pop().or_else(|| links.pop_first()) {
        stop(interrupt)?;
        let io = |e| TrainError::io(&folder, e);
        let place = folder.canonicalize().map_err(io)?;
        if !seen.insert(place.clone()) {
            continue;
        }
        if without.contains(&place) {
            walked.ignore(folder, "written by this run");
            continue;
        }
        let of_a_run =
            folder.join("metrics.jsonl").is_file() && folder.join("checkpoints").is_dir();
        for entry in read_dir(&folder).map_err(io)? {
            stop(interrupt)?;
            let entry = entry.map_err(io)?;
            let (path, name) = (entry.path(), entry.file_name());
            let (name, is_dir) = (name.to_string_lossy(), path.is_dir());
            if is_hidden(&name) {
                if is_dir || Kind::of(&path) != Kind::Other {
                    walked.ignore(path, "hidden");
                }
            } else if !is_dir {
                // A pipe or device would be waited for; a link that leads nowhere is named later.
                match path.exists() && !path.is_file() {
                    true => walked.ignore(path, "neither a file nor a folder"),
                    false => walked.files.push(path),
                }
            } else if of_a_run && OF_A_RUN.contains(&&*name) {
                walked.ignore(path, "written by a training run");
            } else if read_link(&path).is_ok() {
                links.insert(path);
            } else {
                folders.push(path);
            }
        }
    }
    walked.files.sort();
    walked.ignored.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walked)
}

impl Walked {
    fn ignore(&mut self, path: PathBuf, reason: &str) {
        self.ignored.push(Ignored {
            path,
            reason: reason.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{create_dir_all, write};

    use super::*;

    /// Paths below a folder.
    fn names(paths: impl IntoIterator<Item = PathBuf>, root: &Path) -> Vec<String> {
        let name = |p: PathBuf| p.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        paths.into_iter().map(name).collect()
    }

    #[test]
    fn what_is_hidden_or_written_by_runs_is_no_data() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "a.mp4",
            "._a.mp4",
            ".DS_Store",
            ".ipynb_checkpoints/a.mp4",
            "__MACOSX/a.mp4",
            "old/metrics.jsonl",
            "old/checkpoints/step-000001/x.mp4",
            "old/samples/step-000000/00.mp4",
            "run/samples/step-000000/00.mp4",
            "more/samples/b.mp4",
        ] {
            let path = dir.path().join(path);
            create_dir_all(path.parent().unwrap()).unwrap();
            write(path, "").unwrap();
        }
        let own = dir.path().join("run").canonicalize().unwrap();
        let never = AtomicBool::new(false);
        let walked = walk(dir.path(), &[own], &never).unwrap();
        let files = names(walked.files, dir.path());
        assert_eq!(files, ["a.mp4", "more/samples/b.mp4", "old/metrics.jsonl"]);
        let ignored = names(walked.ignored.into_iter().map(|i| i.path), dir.path());
        let expected = [
            "._a.mp4",
            ".ipynb_checkpoints",
            "__MACOSX",
            "old/checkpoints",
            "old/samples",
            "run",
        ];
        assert_eq!(ignored, expected);
    }

    #[cfg(unix)]
    #[test]
    fn loops_of_links_end_and_each_folder_is_searched_once() {
        use std::os::unix::fs::symlink;

        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        create_dir_all(dir.path().join("deep/er")).unwrap();
        write(dir.path().join("deep/er/a.mp4"), "").unwrap();
        write(elsewhere.path().join("b.mp4"), "").unwrap();
        for (to, name) in [
            (dir.path(), "deep/er/root"),
            (Path::new("."), "one"),
            (Path::new("."), "two"),
            (Path::new("three"), "three"),
            (elsewhere.path(), "x"),
            (elsewhere.path(), "y"),
        ] {
            symlink(to, dir.path().join(name)).unwrap();
        }
        let walked = walk(dir.path(), &[], &AtomicBool::new(false)).unwrap();
        let files = names(walked.files, dir.path());
        assert_eq!(files, ["deep/er/a.mp4", "three", "x/b.mp4"]);
        let stopped = walk(dir.path(), &[], &AtomicBool::new(true));
        assert!(matches!(stopped, Err(TrainError::Interrupted)));
    }
}
