//! The work of filling the cache, dealt out to ranks.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::key::Hasher;
use crate::{Ranks, TrainError};

/// How long files that another rank has written may take to be seen: network file systems remember for a
/// while what was not there.
const UNSEEN: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Which of the files of `what`, by their place in the list, are not there, as the first rank sees it:
/// the others may see what was not there a moment ago. All ranks must look for the same files.
///
/// # Errors
/// [`TrainError::Ranks`] where another rank looks for others.
pub(super) fn missing(
    ranks: &Ranks,
    what: &str,
    files: &[&Path],
    is_there: impl Fn(&Path) -> bool,
) -> Result<Vec<usize>, TrainError> {
    let names = files.iter().filter_map(|file| file.file_name());
    let hash = names.fold(Hasher::default(), |hash, name| {
        hash.part(name.to_string_lossy().as_bytes())
    });
    let mine = format!("{} {}", files.len(), hash.finish());
    ranks.same(mine.clone().into_bytes(), |first| {
        let first = String::from_utf8_lossy(first);
        let count = first.split(' ').next().unwrap_or_default();
        (first != mine).then(|| {
            format!(
                "it finds {} different {what} and rank 0 {count}, or others; all ranks need the same files \
                 under data.path and validation.path, and the same models",
                files.len()
            )
        })
    })?;
    let there: Vec<u8> = match ranks.is_first() {
        true => files.iter().map(|file| u8::from(is_there(file))).collect(),
        false => Vec::new(),
    };
    let there = ranks.first_says(there)?;
    let missing = there.iter().enumerate().filter(|(_, there)| **there == 0);
    Ok(missing.map(|(index, _)| index).collect())
}

/// Waits until all ranks have done their share, and this one sees the files of all.
///
/// # Errors
/// [`TrainError::Data`] for a file that does not appear.
pub(super) fn await_files<'a>(
    ranks: &Ranks,
    files: impl Iterator<Item = &'a Path>,
    is_there: impl Fn(&Path) -> bool,
) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    ranks.barrier()?;
    let deadline = Instant::now() + UNSEEN;
    for file in files {
        while !is_there(file) {
            if Instant::now() > deadline {
                return Err(TrainError::Data {
                    path: file.to_path_buf(),
                    reason: format!(
                        "rank {} does not see what another rank has encoded; cache.path must be a folder \
                         that all ranks share",
                        ranks.rank()
                    ),
                });
            }
            thread::sleep(LOOK);
        }
    }
    Ok(())
}
