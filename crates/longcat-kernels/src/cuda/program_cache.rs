//! Compiled programs on disk: compiling them takes seconds, which every run would spend again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use longcat_partial::Partial;

/// Where programs are kept, once it was said.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Bytes in front of a program, by which one that was damaged is told.
const CHECK_BYTES: usize = size_of::<u64>();

/// Keeps programs in a folder from now on, which belongs to this build alone.
pub(crate) fn keep_in(folder: &Path) {
    let _ = FOLDER.set(folder.join("programs"));
}

/// The folder, if programs are kept.
pub(super) fn folder() -> Option<&'static Path> {
    FOLDER.get().map(PathBuf::as_path)
}

/// The file of what a source is compiled to.
pub(super) fn file(folder: &Path, source: &str, name: &[u8], options: &[String]) -> PathBuf {
    let key = hash(&(source, name, options));
    folder.join(format!("{key:016x}.cubin"))
}

/// A program that was kept, if it is there and whole.
pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
    let mut code = fs::read(file).ok()?;
    let check = code.get(..CHECK_BYTES)?.try_into().ok()?;
    code.drain(..CHECK_BYTES);
    (u64::from_le_bytes(check) == hash(&code)).then_some(code)
}

/// Keeps a program if that is possible: a run that cannot goes on all the same.
pub(super) fn write(file: &Path, code: &[u8]) {
    let Some(folder) = file.parent() else { return };
    let mut kept = hash(&code).to_le_bytes().to_vec();
    kept.extend_from_slice(code);
    // Under its own name when it is whole, as others may read meanwhile.
    let partial = Partial::new(file);
    let _ = fs::create_dir_all(folder)
        .and_then(|()| fs::write(partial.path(), kept))
        .and_then(|()| partial.finish());
}

/// The same in every run of a build.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_whole_or_not_at_all() {
        let name = format!("longcat-programs-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let [first, second] =
            ["a", "b"].map(|option| file(&folder, "source", b"kernel", &[option.to_string()]));
        assert_ne!(first, second);
        assert_eq!(read(&first), None);
        write(&first, b"machine code");
        assert_eq!(read(&first).as_deref(), Some(&b"machine code"[..]));
        assert_eq!(read(&second), None);
        let mut bytes = fs::read(&first).expect("it was written");
        bytes[CHECK_BYTES] ^= 1;
        fs::write(&first, &bytes).expect("it can be written again");
        assert_eq!(read(&first), None);
        fs::write(&first, &bytes[..CHECK_BYTES - 1]).expect("it can be written again");
        assert_eq!(read(&first), None);
        let _ = fs::remove_dir_all(&folder);
    }
}
