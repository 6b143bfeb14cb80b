//! An adapter on the host, independent of file formats.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{LoraError, Matrix, Patch};

/// One low-rank product of a layer: adds `scale · up · down` to the rows of one part.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Which part of the layer's output rows, from 0.
    pub part: usize,
    /// In how many equal parts the output rows are divided (1: the block covers them all).
    pub of: usize,
    /// `[rank, d_in]`.
    pub down: Matrix,
    /// `[d_out / of, rank]`.
    pub up: Matrix,
    /// Alpha over rank, or what the format has in its place.
    pub scale: f64,
}

impl Block {
    /// Rank.
    pub fn rank(&self) -> usize {
        self.down.rows()
    }

    /// Output features of the whole layer.
    pub fn d_out(&self) -> usize {
        self.up.rows() * self.of
    }
}

/// What a file calls the factors of a block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FactorKeys {
    pub(crate) down: String,
    pub(crate) up: String,
}

/// A LoRA adapter on the host, free of any file format: canonical layer names to factors.
///
/// Factors keep their stored type and bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    origin: PathBuf,
    targets: BTreeMap<String, Vec<Block>>,
    /// Changes that are no product of two factors, by layer.
    patches: BTreeMap<String, Vec<Patch>>,
    /// The file's keys of the factors of each part, for error messages.
    keys: BTreeMap<(String, usize), FactorKeys>,
    /// The file's key of the first tensor of each part of a patch.
    patch_keys: BTreeMap<(String, bool, usize), String>,
    /// What a user should know before trusting the adapter, from its header and numbers.
    pub(crate) warnings: Vec<String>,
    /// The strings of the file's header, passed on when writing.
    pub metadata: BTreeMap<String, String>,
}

impl Adapter {
    /// An adapter without targets. `origin` is what errors call it: a path, or any short text.
    pub fn new(origin: impl Into<PathBuf>) -> Self {
        Self {
            origin: origin.into(),
            targets: BTreeMap::new(),
            patches: BTreeMap::new(),
            keys: BTreeMap::new(),
            patch_keys: BTreeMap::new(),
            warnings: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// Where the adapter came from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Canonical names and blocks, sorted by name; blocks in the order of their parts.
    pub fn targets(&self) -> impl Iterator<Item = (&str, &[Block])> {
        self.targets
            .iter()
            .map(|(name, blocks)| (name.as_str(), blocks.as_slice()))
    }

    /// The blocks on a layer.
    pub fn get(&self, target: &str) -> Option<&[Block]> {
        self.targets.get(target).map(Vec::as_slice)
    }

    /// Layers with changes that are no product of two factors, sorted by name.
    pub fn patches(&self) -> impl Iterator<Item = (&str, &[Patch])> {
        self.patches
            .iter()
            .map(|(name, patches)| (name.as_str(), patches.as_slice()))
    }

    /// The changes of a layer that are no product of two factors.
    pub fn patches_of(&self, layer: &str) -> &[Patch] {
        self.patches.get(layer).map_or(&[], Vec::as_slice)
    }

    /// Names of all layers that the adapter changes, sorted.
    pub fn layers(&self) -> BTreeSet<&str> {
        let names = self.targets.keys().chain(self.patches.keys());
        names.map(String::as_str).collect()
    }

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.layers().len()
    }

    /// Whether there is no layer at all.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.patches.is_empty()
    }

    /// Keeps the layers for which `keep` is true.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.targets.retain(|name, _| keep(name));
        self.patches.retain(|name, _| keep(name));
    }

    /// What a user should know before trusting the adapter: a scale that was probably lost, a text
    /// encoder that is not this model's.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds a layer, or replaces it.
    ///
    /// # Errors
    /// [`LoraError::ShapeMismatch`] where factors do not fit each other, [`LoraError::Duplicate`]
    /// where two blocks cover the same part, [`LoraError::InvalidSetting`] for a scale that is not
    /// finite or a layer without blocks.
    pub fn insert(&mut self, target: &str, mut blocks: Vec<Block>) -> Result<(), LoraError> {
        blocks.sort_by_key(|b| b.part);
        self.check(target, &blocks)?;
        self.targets.insert(target.to_string(), blocks);
        Ok(())
    }

    /// Adds changes of a layer to those that it has.
    ///
    /// # Errors
    /// [`LoraError::ShapeMismatch`] where matrices do not fit each other or parts are not equal in
    /// rows, [`LoraError::InvalidSetting`] for a scale that is not finite.
    pub fn insert_patches(&mut self, layer: &str, patches: Vec<Patch>) -> Result<(), LoraError> {
        for patch in &patches {
            let others = self.patches_of(layer).iter().chain(&patches);
            let first = others.into_iter().find(|p| p.bias == patch.bias);
            let problem = match first {
                Some(first) if patch.d_out() != first.d_out() || patch.part >= patch.of => {
                    Some(format!(
                        "as part {} of {} of {} rows: parts must be equal in rows",
                        patch.part,
                        patch.of,
                        first.d_out()
                    ))
                }
                _ => patch.problem(),
            };
            if let Some(problem) = problem {
                return Err(self.patch_mismatch(layer, patch, problem));
            }
            if !patch.scale.is_finite() {
                return Err(LoraError::InvalidSetting {
                    what: format!("{layer}: the scale {} is not finite", patch.scale),
                });
            }
        }
        if !patches.is_empty() {
            let own = self.patches.entry(layer.to_string()).or_default();
            own.extend(patches);
        }
        Ok(())
    }

    /// The error for a patch that does not fit.
    pub(crate) fn patch_mismatch(&self, layer: &str, patch: &Patch, expected: String) -> LoraError {
        let key = (layer.to_string(), patch.bias, patch.part);
        LoraError::ShapeMismatch {
            path: self.origin.clone(),
            target: layer.to_string(),
            key: match self.patch_keys.get(&key) {
                Some(key) => key.clone(),
                None => format!("{layer}.{}", patch.tensor()),
            },
            found: patch.shape().to_vec(),
            expected,
        }
    }

    pub(crate) fn name_patch(&mut self, layer: &str, patch: &Patch, key: String) {
        let place = (layer.to_string(), patch.bias, patch.part);
        self.patch_keys.insert(place, key);
    }

    pub(crate) fn name_factors(&mut self, target: &str, part: usize, keys: FactorKeys) {
        self.keys.insert((target.to_string(), part), keys);
    }

    /// The error for a factor of `block` that does not fit: the input side, or the output side.
    pub(crate) fn mismatch(
        &self,
        target: &str,
        block: &Block,
        up: bool,
        expected: String,
    ) -> LoraError {
        let keys = self.keys.get(&(target.to_string(), block.part));
        let (matrix, key, name) = match up {
            true => (&block.up, keys.map(|k| &k.up), "lora_up"),
            false => (&block.down, keys.map(|k| &k.down), "lora_down"),
        };
        LoraError::ShapeMismatch {
            path: self.origin.clone(),
            target: target.to_string(),
            key: key.map_or(name.to_string(), String::clone),
            found: vec![matrix.rows(), matrix.cols()],
            expected,
        }
    }

    fn check(&self, target: &str, blocks: &[Block]) -> Result<(), LoraError> {
        let Some(first) = blocks.first() else {
            return Err(LoraError::InvalidSetting {
                what: format!("{target} has no blocks"),
            });
        };
        for (index, block) in blocks.iter().enumerate() {
            if block.up.cols() != block.rank() {
                let expected = format!("but the rank of lora_down is {}", block.rank());
                return Err(self.mismatch(target, block, true, expected));
            }
            if block.rank() == 0 || block.up.rows() == 0 || block.down.cols() == 0 {
                let expected = "but a factor cannot be empty".into();
                return Err(self.mismatch(target, block, false, expected));
            }
            if block.down.cols() != first.down.cols() {
                let expected = format!("but other parts have {} input columns", first.down.cols());
                return Err(self.mismatch(target, block, false, expected));
            }
            if block.d_out() != first.d_out() || block.of != first.of || block.part >= block.of {
                let expected = format!(
                    "as part {} of {}, beside {} rows as part {} of {}: parts must be equal in rows",
                    block.part,
                    block.of,
                    first.up.rows(),
                    first.part,
                    first.of
                );
                return Err(self.mismatch(target, block, true, expected));
            }
            if index > 0 && blocks[index - 1].part == block.part {
                return Err(LoraError::Duplicate {
                    path: self.origin.clone(),
                    target: target.to_string(),
                    keys: vec![format!("part {}", block.part)],
                });
            }
            if !block.scale.is_finite() {
                return Err(LoraError::InvalidSetting {
                    what: format!("{target}: the scale {} is not finite", block.scale),
                });
            }
        }
        Ok(())
    }
}
