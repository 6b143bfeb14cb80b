//! An adapter on the host, independent of file formats.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{LoraError, Matrix};

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
    /// The file's keys of the factors of each part, for error messages.
    keys: BTreeMap<(String, usize), FactorKeys>,
    /// The strings of the file's header, passed on when writing.
    pub metadata: BTreeMap<String, String>,
}

impl Adapter {
    /// An adapter without targets. `origin` is what errors call it: a path, or any short text.
    pub fn new(origin: impl Into<PathBuf>) -> Self {
        Self {
            origin: origin.into(),
            targets: BTreeMap::new(),
            keys: BTreeMap::new(),
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

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is no layer at all.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
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
