//! Adapters that can be used: those of one folder, uploaded ones, and what was pulled from a hub.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::settings::AdapterUse;
use crate::studio::{AdapterReport, OrderedAdapter, PulledAdapter, Refusal, Studio};

/// Endings of files that may be adapters.
const ENDINGS: &[&str] = &["safetensors", "pt", "pth", "bin", "ckpt"];
/// What makes a folder an adapter, as PEFT writes it.
const PEFT: &str = "adapter_config.json";
/// Stands for `/` in ids of pulled adapters: ids are one part of an address. Names of uploads have none.
const SLASH: &str = "~";
/// The longest id.
const ID_BYTES: usize = 200;

/// The adapters. Requests name them by ids, which are looked up in the list of what is there: no name
/// becomes a path.
pub(crate) struct Library {
    studio: Arc<dyn Studio>,
    folder: Option<PathBuf>,
    uploads: PathBuf,
    seen: Mutex<HashMap<PathBuf, (Stamp, AdapterReport)>>,
    /// Held while an uploaded adapter gets a name that no other has.
    naming: Mutex<()>,
}

/// Tells a file from what was there before.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

/// An adapter that is there.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    pub(crate) source: Source,
    /// What people call it.
    name: String,
    stamp: Stamp,
}

/// Where an adapter comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Folder,
    Upload,
    /// From this repository of a hub.
    Pulled(String),
}

impl Library {
    pub(crate) fn new(studio: Arc<dyn Studio>, folder: Option<PathBuf>, uploads: PathBuf) -> Self {
        Self {
            studio,
            folder,
            uploads,
            seen: Mutex::default(),
            naming: Mutex::default(),
        }
    }

    /// All of them, by source and name; one gives way to one of an earlier source with the same id.
    pub(crate) fn list(&self) -> Vec<Found> {
        let folder = self.folder.iter();
        let of_folder = folder.flat_map(|folder| in_folder(folder, &Source::Folder));
        let pulled = self.studio.pulled();
        let sources: [Vec<Found>; 3] = [
            of_folder.collect(),
            in_folder(&self.uploads, &Source::Upload),
            pulled.into_iter().filter_map(Found::pulled).collect(),
        ];
        let mut all: Vec<Found> = Vec::new();
        for mut found in sources {
            found.sort_by(|a, b| a.id.cmp(&b.id));
            found.dedup_by(|a, b| a.id == b.id);
            found.retain(|one| !all.iter().any(|other| other.id == one.id));
            all.extend(found);
        }
        all
    }

    pub(crate) fn find(&self, id: &str) -> Option<Found> {
        self.list().into_iter().find(|found| found.id == id)
    }

    /// What an adapter is; looked at once, until it changes.
    pub(crate) fn report(&self, found: &Found) -> AdapterReport {
        let seen = self.seen();
        if let Some((stamp, report)) = seen.get(&found.path)
            && *stamp == found.stamp
        {
            return report.clone();
        }
        drop(seen);
        let report = self.inspect(&found.path);
        self.seen()
            .insert(found.path.clone(), (found.stamp, report.clone()));
        report
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, AdapterReport)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a file; where it lies is nobody's business.
    fn inspect(&self, path: &Path) -> AdapterReport {
        let mut report = self.studio.inspect(path);
        let folder = path.parent().unwrap_or(path);
        let prefix = format!("{}/", folder.display());
        for text in report
            .warnings
            .iter_mut()
            .chain(&mut report.problems)
            .chain(&mut report.details)
        {
            *text = text.replace(&prefix, "");
        }
        report
    }

    /// An adapter as the API shows it.
    pub(crate) fn show(&self, found: &Found) -> Value {
        let report = self.report(found);
        json!({
            "id": found.id,
            "object": "adapter",
            "name": found.name,
            "source": match found.source {
                Source::Folder => "folder",
                Source::Upload => "upload",
                Source::Pulled(_) => "pulled",
            },
            "repository": match &found.source {
                Source::Pulled(repository) => Some(repository),
                Source::Folder | Source::Upload => None,
            },
            "bytes": found.stamp.bytes,
            "usable": report.problems.is_empty(),
            "format": report.format,
            "rank": report.rank,
            "layers": report.layers,
            "warnings": report.warnings,
            "problems": report.problems,
            "details": report.details,
        })
    }

    /// The adapters of a request.
    pub(crate) fn order(&self, uses: &[AdapterUse]) -> Result<Vec<OrderedAdapter>, Refusal> {
        if uses.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.list();
        let order = |(index, one): (usize, &AdapterUse)| {
            let at = || format!("adapters[{index}].id");
            let Some(found) = all.iter().find(|found| found.id == one.id) else {
                return Err(Refusal::of(
                    at(),
                    format!("there is no adapter {:?}", one.id),
                ));
            };
            let report = self.report(found);
            if !report.problems.is_empty() {
                let problems = report.problems.join("; ");
                let message = format!("{} cannot be used: {problems}", one.id);
                return Err(Refusal::of(at(), message));
            }
            Ok(OrderedAdapter {
                path: found.path.clone(),
                strength: one.strength,
                scope: one.scope.clone(),
            })
        };
        uses.iter().enumerate().map(order).collect()
    }

    /// Takes in an uploaded file, or a folder with it and its configuration, under a name like the one
    /// that the client has for it.
    ///
    /// # Errors
    /// Why it cannot be used: it is left where it is.
    pub(crate) fn take(
        &self,
        path: &Path,
        name: &str,
    ) -> std::io::Result<Result<Found, Vec<String>>> {
        let report = self.inspect(path);
        if !report.problems.is_empty() {
            return Ok(Err(report.problems));
        }
        let (stem, ending) = match path.is_dir() {
            true => (safe_name(stem_of(name)), String::new()),
            false => {
                let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
                let known = ENDINGS
                    .iter()
                    .find(|known| ending.eq_ignore_ascii_case(known));
                let ending = format!(".{}", known.unwrap_or(&ENDINGS[0]));
                (safe_name(stem_of(name)), ending)
            }
        };
        let names = (1..).map(|number| match number {
            1 => format!("{stem}{ending}"),
            number => format!("{stem}-{number}{ending}"),
        });
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        for id in names {
            let target = self.uploads.join(&id);
            if self.find(&id).is_some() || target.exists() {
                continue;
            }
            fs::rename(path, &target)?;
            return match Found::file(&target, Source::Upload) {
                Some(found) => Ok(Ok(found)),
                None => Err(std::io::Error::other("the file is gone")),
            };
        }
        unreachable!("names do not end")
    }

    /// Removes an uploaded adapter.
    pub(crate) fn remove(&self, found: &Found) -> std::io::Result<()> {
        match found.path.is_dir() {
            true => fs::remove_dir_all(&found.path),
            false => fs::remove_file(&found.path),
        }
    }
}

impl Found {
    /// A file, or a folder as PEFT writes it.
    fn file(path: &Path, source: Source) -> Option<Self> {
        let id = path.file_name()?.to_str()?.to_string();
        let about = fs::metadata(path).ok()?;
        let adapter = match about.is_dir() {
            true => path.join(PEFT).is_file(),
            false => {
                let ending = path.extension()?.to_str()?.to_lowercase();
                ENDINGS.contains(&ending.as_str())
            }
        };
        let hidden = id.starts_with('.');
        (adapter && !hidden && id.len() <= ID_BYTES).then(|| Self {
            name: without_ending(&id).to_string(),
            path: path.to_path_buf(),
            source,
            stamp: Stamp::of(path, &about),
            id,
        })
    }

    fn pulled(adapter: PulledAdapter) -> Option<Self> {
        let PulledAdapter {
            repository,
            file,
            path,
        } = adapter;
        let about = fs::metadata(&path).ok()?;
        let mut stamp = Stamp::of(&path, &about);
        // A configuration beside it may come later.
        let folder = path.parent().and_then(|folder| fs::metadata(folder).ok());
        let changed = folder.and_then(|folder| folder.modified().ok());
        stamp.modified = stamp.modified.max(changed);
        let id = format!("{repository}/{file}").replace('/', SLASH);
        (id.len() <= ID_BYTES).then(|| Self {
            id,
            name: format!("{repository}/{}", without_ending(&file)),
            path,
            source: Source::Pulled(repository),
            stamp,
        })
    }
}

impl Stamp {
    fn of(path: &Path, about: &fs::Metadata) -> Self {
        Self {
            modified: about.modified().ok(),
            bytes: match about.is_dir() {
                true => bytes_in(path),
                false => about.len(),
            },
        }
    }
}

/// The adapters in a folder; one that cannot be read has none.
fn in_folder(folder: &Path, source: &Source) -> Vec<Found> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Found::file(&entry.path(), source.clone()))
        .collect()
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|about| about.len())
        .sum()
}

/// The last part of what a client calls a file, without its ending.
fn stem_of(name: &str) -> &str {
    without_ending(name.rsplit(['/', '\\']).next().unwrap_or_default())
}

fn without_ending(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Letters, digits, and a few signs; never empty, hidden or long.
fn safe_name(name: &str) -> String {
    let safe = |c: char| match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') => c,
        _ => '_',
    };
    let name: String = name.chars().take(100).map(safe).collect();
    let name = name.trim_matches('.');
    match name.is_empty() {
        true => "adapter".to_string(),
        false => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clients_become_harmless() {
        for (name, expected) in [
            ("style.safetensors", "style"),
            ("../../etc/passwd", "passwd"),
            ("C:\\loras\\my style.safetensors", "my_style"),
            ("..", "adapter"),
            (".hidden.safetensors", "hidden"),
            ("", "adapter"),
            ("ünï.pt", "_n_"),
            ("a\0b\n.bin", "a_b_"),
        ] {
            assert_eq!(safe_name(stem_of(name)), expected, "{name}");
        }
        assert_eq!(safe_name(&"x".repeat(500)).len(), 100);
    }
}
