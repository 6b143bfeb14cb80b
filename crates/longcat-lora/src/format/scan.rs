//! An adapter file sorted by layer, before any tensor is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longcat_weights::WeightFiles;

use super::config::{Method, PeftConfig};
use super::keys::{self, Key, Role};
use super::prefix::{self, Bare};
use super::{Format, folder};
use crate::error::UnsupportedKind;
use crate::{LoraError, TargetTable};

/// The tensors of one spelled layer.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    /// The name as PEFT saw it: what its patterns are matched against.
    pub(super) spelled: String,
    pub(super) keys: BTreeMap<Role, String>,
}

/// An adapter file with its keys sorted out, but no tensor read yet.
pub(crate) struct Source {
    pub(crate) files: WeightFiles,
    pub(crate) format: Format,
    /// By canonical name, or part of one (`name#j`).
    pub(crate) layers: BTreeMap<String, Layer>,
    /// PEFT's settings, from a file beside the adapter or from the header.
    pub(super) config: Option<PeftConfig>,
    /// Where `adapter_config.json` must lie, for a file of PEFT.
    config_path: PathBuf,
    pub(crate) unsupported: Vec<(String, UnsupportedKind)>,
    /// Keys that are no part of a LoRA layer, or not of this format.
    pub(crate) unused: Vec<String>,
    /// Keys of layers that the table does not know, by dotted name.
    pub(crate) unknown: BTreeMap<String, Vec<String>>,
    pub(crate) ambiguous: Vec<(String, Vec<String>)>,
    /// Two keys for the same factor.
    pub(super) duplicate: Vec<(String, Vec<String>)>,
}

const PEFT_CONFIG: &str = "adapter_config.json";

/// A part of an adapter, with the layers it can belong to.
struct Part<'a> {
    key: &'a str,
    role: Role,
    bare_factor: bool,
    module: Bare,
    candidates: Vec<String>,
}

impl<'a> Part<'a> {
    fn new(key: &'a str, table: &TargetTable) -> Result<Self, Option<UnsupportedKind>> {
        match keys::parse(key) {
            Key::Unsupported(kind) => Err(Some(kind)),
            Key::Unknown => Err(None),
            Key::Part { module, role, bare } => {
                let module = prefix::strip(module);
                Ok(Self {
                    key,
                    role,
                    bare_factor: bare,
                    candidates: candidates(&module, table),
                    module,
                })
            }
        }
    }
}

fn candidates(module: &Bare, table: &TargetTable) -> Vec<String> {
    if module.format != Some(Format::Kohya) {
        return table.canonical(&module.name).into_iter().collect();
    }
    match table.unflatten(&module.name) {
        names if names.is_empty() => table.unflatten(&prefix::unwrap_flat(&module.name)),
        names => names,
    }
}

/// The prefix of a file, decided over all its keys: the one under which most of them are layers of
/// the model. Where that is a tie, most keys, and then the first one.
fn prevailing(parts: &[Part]) -> Option<Format> {
    let mut counts: Vec<(Option<Format>, [usize; 2])> = Vec::new();
    for part in parts {
        let known = usize::from(!part.candidates.is_empty());
        let format = part.module.format;
        match counts.iter_mut().find(|(other, _)| *other == format) {
            Some((_, count)) => *count = [count[0] + known, count[1] + 1],
            None => counts.push((format, [known, 1])),
        }
    }
    // `max_by_key` takes the last of equals.
    let best = counts.iter().rev().max_by_key(|(_, count)| *count);
    best.and_then(|(format, _)| *format)
}

impl Source {
    /// Opens a file, or a directory with one adapter.
    pub(crate) fn open(path: &Path, table: &TargetTable) -> Result<Self, LoraError> {
        let (files, folder) = folder::open(path)?;
        let mut parts = Vec::new();
        let mut unsupported = Vec::new();
        let mut unused = Vec::new();
        for key in files.keys() {
            match Part::new(key, table) {
                Ok(part) => parts.push(part),
                Err(Some(kind)) => unsupported.push((key.to_string(), kind)),
                Err(None) => unused.push(key.to_string()),
            }
        }
        let prefix = prevailing(&parts);
        let (own, others): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|p| p.module.format == prefix);
        unused.extend(others.iter().map(|part| part.key.to_string()));
        unused.sort();
        let format = match prefix {
            Some(format) => format,
            None if own.iter().any(|part| part.bare_factor) => Format::FastVideo,
            None => Format::DiffSynth,
        };
        let mut source = Self {
            config: None,
            config_path: folder.join(PEFT_CONFIG),
            format,
            layers: BTreeMap::new(),
            unsupported,
            unused,
            unknown: BTreeMap::new(),
            ambiguous: Vec::new(),
            duplicate: Vec::new(),
            files: files.clone(),
        };
        let peft = own.iter().any(|part| part.module.peft);
        for part in own {
            source.add(part);
        }
        source.config = source.find_config(peft)?;
        Ok(source)
    }

    fn add(&mut self, part: Part) {
        let key = part.key.to_string();
        let mut candidates = part.candidates;
        if candidates.len() > 1 {
            self.ambiguous.push((key, candidates));
            return;
        }
        let Some(name) = candidates.pop() else {
            let keys = self.unknown.entry(part.module.name).or_default();
            keys.push(key);
            return;
        };
        let layer = self.layers.entry(name.clone()).or_default();
        layer.spelled = part.module.spelled;
        if let Some(other) = layer.keys.insert(part.role, key.clone()) {
            self.duplicate.push((name, vec![other, key]));
        }
    }

    fn find_config(&self, peft: bool) -> Result<Option<PeftConfig>, LoraError> {
        if peft && self.config_path.is_file() {
            return PeftConfig::from_file(&self.config_path).map(Some);
        }
        match self.format {
            Format::Diffusers => PeftConfig::from_header(self.files.path(), self.files.metadata()),
            _ => Ok(None),
        }
    }

    /// The file as opened, for error messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.files.path().to_path_buf()
    }

    pub(crate) fn is_adapter(&self) -> bool {
        !(self.layers.is_empty()
            && self.unknown.is_empty()
            && self.ambiguous.is_empty()
            && self.unsupported.is_empty())
    }

    /// Whether any layer has its scale in the file.
    pub(crate) fn has_scales(&self) -> bool {
        let explicit =
            |l: &Layer| l.keys.contains_key(&Role::Alpha) || l.keys.contains_key(&Role::AlphaScale);
        self.config.is_some() || self.layers.values().any(explicit)
    }

    /// Everything about the keys that makes the file unfit, before any tensor is looked at.
    pub(crate) fn check(&self) -> Result<(), LoraError> {
        match self.problems().into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// What [`Self::check`] refuses, all of it.
    pub(crate) fn problems(&self) -> Vec<LoraError> {
        let path = self.path();
        let mut problems = Vec::new();
        let mut kinds = Vec::new();
        for (key, kind) in &self.unsupported {
            if !kinds.contains(kind) {
                kinds.push(*kind);
                problems.push(LoraError::Unsupported {
                    path: path.clone(),
                    key: key.clone(),
                    kind: *kind,
                });
            }
        }
        if !self.is_adapter() {
            problems.push(LoraError::NoLoraKeys {
                path,
                keys: self.files.keys().count(),
            });
            return problems;
        }
        if !self.unused.is_empty() {
            problems.push(LoraError::UnusedKeys {
                path: path.clone(),
                format: self.format,
                keys: self.unused.clone(),
            });
        }
        for (key, candidates) in &self.ambiguous {
            problems.push(LoraError::AmbiguousName {
                path: path.clone(),
                key: key.clone(),
                candidates: candidates.clone(),
            });
        }
        if !self.unknown.is_empty() {
            problems.push(LoraError::UnknownModule {
                path: path.clone(),
                targets: self.unknown.keys().cloned().collect(),
            });
        }
        for (target, keys) in &self.duplicate {
            problems.push(LoraError::Duplicate {
                path: path.clone(),
                target: target.clone(),
                keys: keys.clone(),
            });
        }
        problems.extend(self.config_problem());
        problems
    }

    /// What is wrong with PEFT's settings, or with their absence.
    fn config_problem(&self) -> Option<LoraError> {
        let path = self.path();
        let any = |role: fn(&Role) -> bool| {
            let mut keys = self.layers.values().flat_map(|l| &l.keys);
            keys.find(|(r, _)| role(r)).map(|(_, key)| key.clone())
        };
        let unsupported = |key: &str, kind| {
            Some(LoraError::Unsupported {
                path: path.clone(),
                key: key.into(),
                kind,
            })
        };
        let Some(config) = &self.config else {
            let without_scale = |l: &&Layer| {
                !l.keys.contains_key(&Role::Alpha)
                    && !l
                        .keys
                        .keys()
                        .all(|r| matches!(r, Role::Diff | Role::DiffBias))
            };
            let layer = self.layers.values().find(without_scale)?;
            let telling = any(|r| *r == Role::Magnitude);
            return (self.format == Format::Peft).then(|| LoraError::MissingConfig {
                config: self.config_path.clone(),
                key: telling
                    .or_else(|| layer.keys.values().next().cloned())
                    .unwrap_or_default(),
                path,
            });
        };
        match config.method {
            Method::Lora if config.use_dora && any(|r| *r == Role::Magnitude).is_none() => {
                unsupported("use_dora", UnsupportedKind::Dora)
            }
            Method::Loha if any(|r| matches!(r, Role::HadamardA(_))).is_none() => {
                unsupported("peft_type LOHA", UnsupportedKind::Loha)
            }
            Method::Lokr
                if any(|r| matches!(r, Role::Kronecker(_) | Role::KroneckerA(_))).is_none() =>
            {
                unsupported("peft_type LOKR", UnsupportedKind::Lokr)
            }
            _ => None,
        }
    }
}
