//! `longcat models`: what the Hugging Face cache has for us.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use indicatif::BinaryBytes;
use longcat_cli::{note, printable, say};
use longcat_dit::lora_targets;
use longcat_hub::{CachedRepo, HubCache, HubError, Snapshot, is_weights};
use longcat_lora::Adapter;
use longcat_serve::PulledAdapter;
use longcat_video::{Checkpoint, Component};
use longcat_weights::{StoredType, WeightFiles};
use serde::Serialize;
use serde_json::json;

use crate::args::Models;

pub fn run(args: &Models) -> Result<()> {
    let cache = HubCache::from_env()?;
    let repos = cache.repos()?;
    let mut seen = Seen::default();
    let models = repos.iter().flat_map(|repo| models_of(repo, &mut seen));
    let models: Vec<Model> = models.collect();
    let ours: BTreeSet<&str> = models.iter().map(|model| model.repo.as_str()).collect();
    let others = repos.len() - ours.len();
    if args.json {
        let result = json!({"cache": cache.path(), "models": models, "other_repositories": others});
        say!("{result:#}");
        return Ok(());
    }
    let cache = cache.path().to_string_lossy();
    let cache = printable(&cache);
    if models.is_empty() {
        note!("{cache}: nothing for LongCat-Video; `longcat pull` downloads its released weights");
    }
    let width = models
        .iter()
        .flat_map(Model::names)
        .map(|n| n.chars().count());
    let width = width.max().unwrap_or(0);
    for model in &models {
        model.print(width);
    }
    if others > 0 {
        note!("other repositories in {cache}: {others}");
    }
    Ok(())
}

/// The adapters in the cache, each file once.
///
/// # Errors
/// [`HubError`] if the cache cannot be read.
pub fn adapters(seen: &mut Seen) -> Result<Vec<PulledAdapter>, HubError> {
    let mut adapters = Vec::new();
    for repo in HubCache::from_env()?.repos()? {
        let mut snapshots: Vec<&Snapshot> = repo.snapshots.iter().collect();
        snapshots.sort_by_key(|snapshot| !snapshot.refs.iter().any(|r| r == "main"));
        // Commits share the files in which they do not differ.
        let mut blobs = BTreeSet::new();
        for snapshot in snapshots {
            let parts = parts(snapshot, seen).into_iter();
            for part in parts.filter(|part| part.kind == Kind::Adapter) {
                let blob = fs::canonicalize(&part.path).unwrap_or_else(|_| part.path.clone());
                if blobs.insert(blob) {
                    adapters.push(PulledAdapter {
                        repository: name_of(&repo, snapshot),
                        file: part.name,
                        path: part.path,
                    });
                }
            }
        }
    }
    Ok(adapters)
}

/// What files and folders of the cache were when they were last looked at.
#[derive(Debug, Default)]
pub struct Seen(HashMap<PathBuf, (Stamp, Option<Part>)>);

/// When a file and the folder that it is in were last changed, and its bytes.
type Stamp = (Option<SystemTime>, Option<SystemTime>, u64);

impl Seen {
    /// What a file or folder of a snapshot is; it is opened again when it has changed, or when something has come
    /// beside it, such as the configuration of an adapter.
    fn part(&mut self, snapshot: &Snapshot, name: &str, bytes: u64) -> Option<Part> {
        let path = snapshot.path.join(name);
        let changed = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).ok();
        let stamp = (changed(&path), path.parent().and_then(changed), bytes);
        if let Some((seen, part)) = self.0.get(&path)
            && *seen == stamp
        {
            return part.clone();
        }
        let part = Part::of(snapshot, name, bytes);
        self.0.insert(path, (stamp, part.clone()));
        part
    }
}

/// What can be done with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// A whole checkpoint of floats, which `--model` takes.
    Base,
    /// A whole checkpoint of packed weights, which `--model` takes.
    Quantised,
    /// A network by itself, which `--dit` and the like take.
    SingleFile,
    /// What `--lora` takes.
    Adapter,
    /// Files of a checkpoint of which some lack.
    Incomplete,
    /// A repository that has files of the kinds above.
    Files,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Base => "base",
            Self::Quantised => "quantised",
            Self::SingleFile => "single file",
            Self::Adapter => "adapter",
            Self::Incomplete => "incomplete",
            Self::Files => "files",
        })
    }
}

/// A repository at a commit.
#[derive(Debug, Serialize)]
struct Model {
    #[serde(skip)]
    repo: String,
    /// What `--model` finds it by.
    name: String,
    commit: String,
    path: PathBuf,
    kind: Kind,
    /// The type of the transformer's packed weights, or that most of its bytes have.
    dtype: Option<String>,
    bytes: u64,
    /// What lacks.
    missing: Vec<String>,
    /// Adapters, and of a repository of single files these.
    parts: Vec<Part>,
}

/// A file, or a folder of shards.
#[derive(Debug, Clone, Serialize)]
struct Part {
    name: String,
    path: PathBuf,
    kind: Kind,
    /// What it holds, in words.
    holds: String,
    dtype: Option<String>,
    bytes: u64,
    #[serde(skip)]
    component: Option<Component>,
    #[serde(skip)]
    packed: bool,
}

/// The snapshots of a repository that hold something for us.
fn models_of(repo: &CachedRepo, seen: &mut Seen) -> Vec<Model> {
    let snapshots = repo.snapshots.iter();
    snapshots
        .filter_map(|snapshot| Model::of(repo, snapshot, seen))
        .collect()
}

/// What `--model` finds a snapshot by.
fn name_of(repo: &CachedRepo, snapshot: &Snapshot) -> String {
    let revision = match snapshot.refs.as_slice() {
        // A first pull that is not finished has noted no branch.
        _ if repo.snapshots.len() == 1 => String::new(),
        refs if refs.iter().any(|r| r == "main") => String::new(),
        [one, ..] => format!("@{one}"),
        [] => format!("@{}", snapshot.commit),
    };
    format!("{}{revision}", repo.name)
}

impl Model {
    fn of(repo: &CachedRepo, snapshot: &Snapshot, seen: &mut Seen) -> Option<Self> {
        let mut parts = parts(snapshot, seen);
        let transformer = parts
            .iter()
            .find(|part| matches!(part.component, Some(Component::Transformer(_))));
        let files = || snapshot.files.iter().map(|file| file.name.as_str());
        let official = files().any(|name| name.starts_with("dit/"));
        let begun = official && (!snapshot.missing.is_empty() || !files().any(is_weights));
        if parts.is_empty() && !begun {
            return None;
        }
        let (dtype, packed) = match transformer {
            Some(part) => (part.dtype.clone(), part.packed),
            None => (None, false),
        };
        let kind = match transformer {
            Some(_) if is_checkpoint(snapshot) && packed => Kind::Quantised,
            Some(_) if is_checkpoint(snapshot) => Kind::Base,
            _ if official || !snapshot.missing.is_empty() => Kind::Incomplete,
            _ => Kind::Files,
        };
        if kind != Kind::Files {
            parts.retain(|part| part.kind == Kind::Adapter);
        }
        let unfinished = match kind {
            Kind::Incomplete => repo.unfinished,
            _ => 0,
        };
        let bytes: u64 = snapshot.files.iter().map(|file| file.bytes).sum();
        Some(Self {
            repo: repo.name.clone(),
            name: name_of(repo, snapshot),
            commit: snapshot.commit.clone(),
            path: snapshot.path.clone(),
            kind,
            dtype,
            bytes: bytes + unfinished,
            missing: snapshot.missing.clone(),
            parts,
        })
    }

    /// What its rows begin with.
    fn names(&self) -> Vec<String> {
        let parts = self.parts.iter().map(|part| format!("  {}", part.name));
        [self.name.clone()].into_iter().chain(parts).collect()
    }

    fn print(&self, width: usize) {
        let row = |name: &str, kind: Kind, dtype: &Option<String>, bytes: u64, more: &str| {
            let size = BinaryBytes(bytes).to_string();
            let dtype = dtype.as_deref().unwrap_or_default();
            let row = format!("{name:width$}  {kind:11}  {dtype:8}  {size:>11}  {more}");
            say!("{}", printable(row.trim_end()));
        };
        let more = match (self.kind, self.missing.as_slice()) {
            (Kind::Incomplete, []) => format!("`longcat pull {}` downloads the rest", self.name),
            (Kind::Incomplete, [one, ..]) => format!(
                "lacks {one}; `longcat pull {}` downloads the rest",
                self.name
            ),
            _ => String::new(),
        };
        row(&self.name, self.kind, &self.dtype, self.bytes, &more);
        for part in &self.parts {
            let name = format!("  {}", part.name);
            row(&name, part.kind, &part.dtype, part.bytes, &part.holds);
        }
    }
}

/// Whether `--model` would open it.
fn is_checkpoint(snapshot: &Snapshot) -> bool {
    snapshot.missing.is_empty() && Checkpoint::open(snapshot.path.as_path()).is_ok()
}

/// The files of weights, and folders of shards, that are ours.
fn parts(snapshot: &Snapshot, seen: &mut Seen) -> Vec<Part> {
    let mut folders: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    let mut sharded = BTreeSet::new();
    for file in &snapshot.files {
        let folder = file.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        if file.name.ends_with(".safetensors.index.json") {
            sharded.insert(folder);
        }
        if is_weights(&file.name) {
            folders
                .entry(folder)
                .or_default()
                .push((&file.name, file.bytes));
        }
    }
    let mut parts = Vec::new();
    for (folder, files) in folders {
        if sharded.contains(folder) {
            let bytes = files.iter().map(|(_, bytes)| bytes).sum();
            let whole = seen.part(snapshot, folder, bytes);
            // Of a folder in which shards lack, those that are there tell what it is.
            let tell = || {
                files
                    .iter()
                    .find_map(|(file, _)| seen.part(snapshot, file, bytes))
            };
            parts.extend(whole.or_else(tell));
        } else {
            let files = files.iter();
            parts.extend(files.filter_map(|(name, bytes)| seen.part(snapshot, name, *bytes)));
        }
    }
    parts
}

impl Part {
    /// What a file or folder is, by its header; `None` for what is of no use here.
    fn of(snapshot: &Snapshot, name: &str, bytes: u64) -> Option<Self> {
        let path = snapshot.path.join(name);
        let files = WeightFiles::open(&path).ok()?;
        let component = Component::of(&files);
        let (kind, holds) = match component {
            Some(component) => (Kind::SingleFile, component.to_string()),
            None if is_adapter(&path) => (Kind::Adapter, String::new()),
            None => return None,
        };
        let dtype = main_type(&files);
        Some(Self {
            name: name.to_string(),
            path,
            kind,
            holds,
            packed: dtype.is_some_and(|dtype| dtype.packed().is_some()),
            dtype: dtype.map(|dtype| dtype.to_string()),
            bytes,
            component,
        })
    }
}

/// Whether a file is an adapter whose layers are those of LongCat-Video. No values are read.
fn is_adapter(path: &Path) -> bool {
    Adapter::read_layers(path, lora_targets(), &mut |_| false).is_ok()
}

/// The type that most bytes have, of packed weights if there are any: of small models more bytes stay floats.
fn main_type(files: &WeightFiles) -> Option<StoredType> {
    let mut types: Vec<(StoredType, usize)> = Vec::new();
    for key in files.keys() {
        let Some(info) = files.info(key) else {
            continue;
        };
        let bytes = files.stored_bytes(key);
        match types.iter_mut().find(|(dtype, _)| *dtype == info.dtype) {
            Some((_, sum)) => *sum += bytes,
            None => types.push((info.dtype, bytes)),
        }
    }
    let packed = |dtype: &StoredType| dtype.packed().is_some();
    let main = types
        .into_iter()
        .max_by_key(|(dtype, bytes)| (packed(dtype), *bytes));
    main.map(|(dtype, _)| dtype)
}
