//! A checkpoint directory around a merged transformer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use longcat_partial::{Partial, is_partial};
use longcat_video::{Checkpoint, Requantized};

/// What packing merged matrices again changed.
pub fn requantized_in_words(off: &Requantized) -> String {
    let all = format!(
        "packed {} matrices again with the adapters in them: off by {:.2} % (root mean square)",
        off.matrices,
        100.0 * off.error
    );
    match &off.largest {
        Some((layer, error)) => format!("{all}, at most by {:.2} %: {layer}", 100.0 * error),
        None => all,
    }
}

/// A directory under a temporary name beside its own, which it gets when it is whole; otherwise it
/// is removed.
pub struct Staged(Partial);

impl Staged {
    /// Nothing is written yet.
    pub fn new(output: &Path) -> Self {
        Self(Partial::new(output))
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds everything of a checkpoint but its transformer, so that the directory opens as one.
    /// Files are linked where the file system can, and copied elsewhere.
    pub fn add_components(&self, checkpoint: &Checkpoint) -> Result<()> {
        let root = checkpoint.root();
        let transformer = checkpoint.transformer_dir();
        let entries = fs::read_dir(root).with_context(|| root.display().to_string())?;
        for entry in entries {
            let path = entry.with_context(|| root.display().to_string())?.path();
            let Some(name) = path.file_name() else {
                continue;
            };
            let to = self.path().join(name);
            // Files of the transformer's own directory are there already, and this directory may lie in the
            // checkpoint's.
            if path != transformer && !to.exists() && !is_partial(name) {
                link(&path, &to)?;
            }
        }
        Ok(())
    }

    /// Gives the directory its name.
    pub fn finish(self) -> Result<()> {
        let failed = format!("{} cannot be written", self.0.target().display());
        self.0.finish().context(failed)
    }
}

fn link(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("{} cannot be copied", from.display());
    if from.is_dir() {
        fs::create_dir_all(to).with_context(failed)?;
        for entry in fs::read_dir(from).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            if let Some(name) = path.file_name() {
                link(&path, &to.join(name))?;
            }
        }
        return Ok(());
    }
    // A link to a link would point elsewhere: what it leads to is what counts.
    let real = from.canonicalize().with_context(failed)?;
    if fs::hard_link(&real, to).is_err() {
        fs::copy(&real, to).with_context(failed)?;
    }
    Ok(())
}
