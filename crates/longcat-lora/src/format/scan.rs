//! An adapter file sorted by layer, before any tensor is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longcat_weights::WeightFiles;

use super::Format;
use super::config::PeftConfig;
use super::keys::{self, Key, Role};
use crate::error::UnsupportedKind;
use crate::{LoraError, TargetTable};

/// The tensors of one spelled layer.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    /// The name as the format spells it, without prefix: what PEFT's patterns are matched against.
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

impl Source {
    /// Opens a file, or a directory as PEFT and diffusers write them.
    pub(crate) fn open(path: &Path, table: &TargetTable) -> Result<Self, LoraError> {
        let file = adapter_file(path);
        let files = WeightFiles::open(&file)?;
        let parsed: Vec<(String, Key)> = files
            .keys()
            .map(|key| (key.to_string(), keys::parse(key)))
            .collect();
        let format = parsed
            .iter()
            .find_map(|(_, key)| match key {
                Key::Lora { module, bare, .. } => Some(Format::detect(module, *bare)),
                _ => None,
            })
            .unwrap_or(Format::DiffSynth);
        let mut source = Self {
            config: None,
            format,
            layers: BTreeMap::new(),
            unsupported: Vec::new(),
            unused: Vec::new(),
            unknown: BTreeMap::new(),
            ambiguous: Vec::new(),
            duplicate: Vec::new(),
            files: files.clone(),
        };
        for (key, parsed) in &parsed {
            match parsed {
                Key::Unsupported(kind) => source.unsupported.push((key.clone(), *kind)),
                Key::Unknown => source.unused.push(key.clone()),
                Key::Lora { module, role, .. } => match format.strip(module) {
                    Some(spelled) => source.add(key, spelled, *role, table),
                    None => source.unused.push(key.clone()),
                },
            }
        }
        source.config = source.find_config(&file)?;
        Ok(source)
    }

    fn add(&mut self, key: &str, spelled: String, role: Role, table: &TargetTable) {
        let mut candidates = match self.format {
            Format::Kohya => table.unflatten(&spelled),
            _ => table.canonical(&spelled).into_iter().collect(),
        };
        if candidates.len() > 1 {
            self.ambiguous.push((key.to_string(), candidates));
            return;
        }
        let Some(name) = candidates.pop() else {
            self.unknown
                .entry(spelled)
                .or_default()
                .push(key.to_string());
            return;
        };
        let layer = self.layers.entry(name.clone()).or_default();
        layer.spelled = spelled;
        if let Some(other) = layer.keys.insert(role, key.to_string()) {
            self.duplicate.push((name, vec![other, key.to_string()]));
        }
    }

    fn find_config(&self, file: &Path) -> Result<Option<PeftConfig>, LoraError> {
        match self.format {
            Format::Peft => {
                let path = file.with_file_name(PEFT_CONFIG);
                if !path.is_file() {
                    return Ok(None);
                }
                PeftConfig::from_file(&path).map(Some)
            }
            Format::Diffusers => PeftConfig::from_header(file, self.files.metadata()),
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

    /// Everything about the keys that makes the file unfit, before any tensor is looked at.
    pub(crate) fn check(&self) -> Result<(), LoraError> {
        let path = self.path();
        if let Some((key, kind)) = self.unsupported.first() {
            return Err(LoraError::Unsupported {
                path,
                key: key.clone(),
                kind: *kind,
            });
        }
        if !self.is_adapter() {
            return Err(LoraError::NoLoraKeys {
                path,
                keys: self.files.keys().count(),
            });
        }
        if !self.unused.is_empty() {
            return Err(LoraError::UnusedKeys {
                path,
                format: self.format,
                keys: self.unused.clone(),
            });
        }
        if let Some((key, candidates)) = self.ambiguous.first() {
            return Err(LoraError::AmbiguousName {
                path,
                key: key.clone(),
                candidates: candidates.clone(),
            });
        }
        if !self.unknown.is_empty() {
            return Err(LoraError::UnknownModule {
                path,
                targets: self.unknown.keys().cloned().collect(),
            });
        }
        if let Some((target, keys)) = self.duplicate.first() {
            return Err(LoraError::Duplicate {
                path,
                target: target.clone(),
                keys: keys.clone(),
            });
        }
        if self.format == Format::Peft && self.config.is_none() {
            return Err(LoraError::MissingConfig {
                config: path.with_file_name(PEFT_CONFIG),
                path,
            });
        }
        Ok(())
    }
}

/// The adapter inside a directory, by the file names that PEFT and diffusers use.
fn adapter_file(path: &Path) -> PathBuf {
    [
        "adapter_model.safetensors",
        "pytorch_lora_weights.safetensors",
    ]
    .iter()
    .map(|name| path.join(name))
    .find(|file| file.is_file())
    .unwrap_or_else(|| path.to_path_buf())
}
