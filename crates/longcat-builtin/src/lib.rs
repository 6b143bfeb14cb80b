//! The built-in checkpoint: a small LongCat-Video model of moving shapes, in the official layout.
//!
//! It is a stand-in for the released weights where those would be too much: in tests, in examples,
//! and in the command without `--model`. Files only; any crate of the workspace that reads checkpoint
//! directories can open it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use include_dir::{Dir, include_dir};
use longcat_partial::Partial;

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets");

/// The built-in checkpoint could not be written to the cache directory.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct UnpackError {
    /// The file or folder.
    pub path: PathBuf,
    /// The cause.
    pub cause: std::io::Error,
}

/// A directory with the built-in checkpoint, in the official layout.
///
/// It lies in the program; the first call of a version writes it to the user's cache directory, from
/// where it is memory-mapped like any other.
///
/// # Errors
/// [`UnpackError`] when the cache directory cannot be written.
pub fn builtin_checkpoint() -> Result<PathBuf, UnpackError> {
    unpack(&cache_dir())
}

fn unpack(cache: &Path) -> Result<PathBuf, UnpackError> {
    /// The other threads of this process have it from the first one.
    static UNPACKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = UNPACKING.lock().unwrap_or_else(PoisonError::into_inner);
    let root = cache.join(format!("builtin-{:016x}", fingerprint(&FILES)));
    if root.is_dir() {
        return Ok(root);
    }
    let partial = Partial::new(&root);
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |cause| UnpackError { path, cause }
    };
    fs::create_dir_all(partial.path()).map_err(io(partial.path()))?;
    FILES.extract(partial.path()).map_err(io(partial.path()))?;
    match partial.finish() {
        Ok(()) => Ok(root),
        // Another process was first; its copy is whole, because it was renamed too.
        Err(_) if root.is_dir() => Ok(root),
        Err(cause) => Err(UnpackError { path: root, cause }),
    }
}

/// `$XDG_CACHE_HOME`, `~/.cache` or the temporary directory.
fn cache_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let base = match (set("XDG_CACHE_HOME"), set("HOME"), set("LOCALAPPDATA")) {
        (Some(dir), _, _) | (None, None, Some(dir)) => PathBuf::from(dir),
        (None, Some(home), _) => PathBuf::from(home).join(".cache"),
        (None, None, None) => std::env::temp_dir(),
    };
    base.join("longcat-video")
}

/// FNV-1a over names and contents: a changed checkpoint gets a directory of its own.
fn fingerprint(dir: &Dir<'_>) -> u64 {
    fn mix(hash: u64, bytes: &[u8]) -> u64 {
        bytes.iter().fold(hash, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
        })
    }
    fn walk(dir: &Dir<'_>, mut hash: u64) -> u64 {
        for file in dir.files() {
            hash = mix(hash, file.path().as_os_str().as_encoded_bytes());
            hash = mix(hash, file.contents());
        }
        dir.dirs().fold(hash, |hash, dir| walk(dir, hash))
    }
    walk(dir, 0xcbf2_9ce4_8422_2325)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn threads_may_unpack_at_once() {
        let cache = std::env::temp_dir().join(format!("longcat-unpack-{}", std::process::id()));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| unpack(&cache))).collect();
            for thread in threads {
                let root = thread.join().unwrap().unwrap();
                assert!(root.join("dit/config.json").is_file());
            }
        });
        let left = fs::read_dir(&cache).unwrap().count();
        assert_eq!(left, 1, "nothing temporary stays");
        fs::remove_dir_all(cache).unwrap();
    }
}
