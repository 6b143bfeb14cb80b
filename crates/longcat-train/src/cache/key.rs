//! Names of cached files.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::observe::stop;

/// Bytes of a large file that its fingerprint reads at either end.
const SAMPLE: u64 = 1 << 20;

/// A hash in which every part is preceded by its length, so that parts cannot run together.
#[derive(Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(super) fn finish(self) -> String {
        let digest = self.0.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A hash of all bytes of a file, or of all files of a folder with their names.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Interrupted`].
pub(super) fn content(path: &Path, interrupt: &AtomicBool) -> Result<String, TrainError> {
    let mut hasher = Hasher::default();
    let mut block = vec![0; SAMPLE as usize];
    for file in files(path)? {
        let mut sha = Sha256::new();
        let mut reader = File::open(&file).map_err(|e| TrainError::io(&file, e))?;
        loop {
            stop(interrupt)?;
            match reader.read(&mut block) {
                Ok(0) => break,
                Ok(length) => sha.update(&block[..length]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(TrainError::io(&file, e)),
            }
        }
        let name = file.strip_prefix(path).unwrap_or(Path::new(""));
        hasher = hasher
            .part(name.to_string_lossy().as_bytes())
            .part(&sha.finalize());
    }
    Ok(hasher.finish())
}

/// Tells one model from another without reading gigabytes: a hash of the names and sizes of the
/// files of a folder and of the first and last MiB of each (safetensors headers are at the front).
///
/// # Errors
/// [`TrainError::Io`].
pub fn fingerprint(folder: &Path) -> Result<String, TrainError> {
    let mut hasher = Hasher::default();
    for path in files(folder)? {
        let io = |e| TrainError::io(&path, e);
        let mut file = File::open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut bytes = Vec::new();
        file.by_ref()
            .take(SAMPLE)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        if length > SAMPLE {
            file.seek(SeekFrom::Start(SAMPLE.max(length.saturating_sub(SAMPLE))))
                .map_err(io)?;
            file.read_to_end(&mut bytes).map_err(io)?;
        }
        let name = path.strip_prefix(folder).unwrap_or(&path);
        hasher = hasher
            .part(name.to_string_lossy().as_bytes())
            .part(&length.to_le_bytes())
            .part(&bytes);
    }
    Ok(hasher.finish())
}

/// The file itself, or the files directly in a folder, sorted, without hidden ones.
fn files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| TrainError::io(path, e))? {
        let entry = entry.map_err(|e| TrainError::io(path, e))?;
        let file = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if file.is_file() && !hidden {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::write;

    use super::*;

    #[test]
    fn keys_follow_content_and_not_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            write(&path, bytes).unwrap();
            path
        };
        let (a, b, c) = (file("a", b"one"), file("b", b"one"), file("c", b"two"));
        let content = |path: &Path| content(path, &AtomicBool::new(false)).unwrap();
        assert_eq!(content(&a), content(&b));
        assert_ne!(content(&a), content(&c));
        let before = fingerprint(dir.path()).unwrap();
        file(".DS_Store", b"of a file manager");
        assert_eq!(before, fingerprint(dir.path()).unwrap());
        file("c", b"owt");
        assert_ne!(before, fingerprint(dir.path()).unwrap());
    }

    #[test]
    fn parts_do_not_run_together() {
        let hash = |a: &[u8], b: &[u8]| Hasher::default().part(a).part(b).finish();
        assert_ne!(hash(b"ab", b"c"), hash(b"a", b"bc"));
    }
}
