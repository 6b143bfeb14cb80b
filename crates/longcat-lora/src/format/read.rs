//! Adapter files to adapters.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::Format;
use super::keys::Role;
use super::kinds::Place;
use super::layout;
use super::scan::{Layer, Source};
use crate::adapter::FactorKeys;
use crate::error::UnsupportedKind;
use crate::{Adapter, Block, LoraError, Matrix, Patch, TargetTable};

/// The tensors of one layer or part, read and checked on their own.
struct Factors {
    down: Matrix,
    /// With the index of the part, where the file gives one.
    ups: Vec<(usize, Matrix)>,
    /// One per part of the file.
    scale: f64,
}

/// What the tensors of a layer say.
#[derive(Default)]
struct Changes {
    blocks: Vec<Block>,
    /// With a key of the file, for error messages.
    patches: Vec<(Patch, String)>,
}

impl Adapter {
    /// Reads an adapter file, or a directory with one. The format is recognised from the keys.
    ///
    /// # Errors
    /// Everything that makes the file unfit for a model described by `table`: see [`LoraError`].
    /// Whether the layers exist in a model and have its shapes is checked when it is loaded there.
    pub fn read(path: &Path, table: &TargetTable) -> Result<Self, LoraError> {
        Self::read_layers(path, table, &mut |_| true)
    }

    /// As [`Self::read`], of the layers alone whose canonical names `keep` accepts: the values of others are
    /// not read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_layers(
        path: &Path,
        table: &TargetTable,
        keep: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Self, LoraError> {
        let mut source = Source::open(path, table)?;
        source.check()?;
        source.layers.retain(|name, _| {
            let part = name.split_once('#');
            keep(part.map_or(name.as_str(), |(layer, _)| layer))
        });
        let (adapter, problems) = source.read(table);
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(adapter),
        }
    }
}

impl Source {
    /// Reads all layers, on all processors, and says which could not be read.
    pub(crate) fn read(&self, table: &TargetTable) -> (Adapter, Vec<LoraError>) {
        let mut adapter = Adapter::new(self.path());
        adapter.metadata = self.files.metadata().clone();
        let hints = layout::take_hints(&mut adapter.metadata);
        adapter.metadata.remove(super::config::HEADER_KEY);

        let targets: Vec<_> = self.by_target().into_iter().collect();
        let changes = targets.par_iter().map(|(target, parts)| {
            self.changes(target, parts, table.parts(target), hints.get(target))
        });
        let changes: Vec<Result<Changes, LoraError>> = changes.collect();
        let mut problems = Vec::new();
        for ((target, parts), changes) in targets.iter().zip(changes) {
            let result = changes.and_then(|changes| {
                for block in &changes.blocks {
                    adapter.name_factors(target, block.part, factor_keys(parts, block.part));
                }
                let mut patches = Vec::new();
                for (patch, key) in changes.patches {
                    adapter.name_patch(target, &patch, key);
                    patches.push(patch);
                }
                adapter.insert_patches(target, patches)?;
                match changes.blocks.is_empty() {
                    true => Ok(()),
                    false => adapter.insert(target, changes.blocks),
                }
            });
            problems.extend(result.err());
        }
        adapter.warnings = self.warnings();
        (adapter, problems)
    }

    /// The layers of each canonical target, with the part they stand for.
    fn by_target(&self) -> BTreeMap<String, Vec<(Option<usize>, &Layer)>> {
        let mut targets: BTreeMap<String, Vec<(Option<usize>, &Layer)>> = BTreeMap::new();
        for (name, layer) in &self.layers {
            let (target, part) = match name.split_once('#') {
                Some((target, part)) => (target, part.parse().ok()),
                None => (name.as_str(), None),
            };
            targets
                .entry(target.to_string())
                .or_default()
                .push((part, layer));
        }
        targets
    }

    fn changes(
        &self,
        target: &str,
        layers: &[(Option<usize>, &Layer)],
        parts: usize,
        hint: Option<&usize>,
    ) -> Result<Changes, LoraError> {
        let mut changes = Changes::default();
        for (part, layer) in layers {
            let place = match part {
                Some(part) => Place {
                    part: *part,
                    of: parts,
                },
                None if layers.len() > 1 => {
                    return Err(LoraError::Duplicate {
                        path: self.path(),
                        target: target.to_string(),
                        keys: layers
                            .iter()
                            .flat_map(|(_, layer)| layer.keys.values().cloned())
                            .collect(),
                    });
                }
                None => Place { part: 0, of: 1 },
            };
            let mut blocks = match part {
                _ if !layer.has(Role::is_low_rank) => Vec::new(),
                Some(_) => vec![self.part(target, layer, place)?],
                None => {
                    let factors = self.factors(target, layer, parts)?;
                    self.whole(target, layer, factors, parts, hint)?
                }
            };
            changes.patches.extend(self.patches(target, layer, place)?);
            if layer.key(Role::Magnitude).is_some() {
                let whole = match blocks.as_slice() {
                    [] => return Err(self.unsupported(layer, UnsupportedKind::Dora)),
                    [one] => one.clone(),
                    // Blocks that a dense pair of factors was found to hold.
                    many => layout::joined(many),
                };
                changes
                    .patches
                    .extend(self.decomposed(target, layer, &whole)?);
                blocks.clear();
            }
            blocks.extend(self.hadamard(target, layer, place)?);
            let only_alpha = |r: Role| !matches!(r, Role::Alpha | Role::AlphaScale);
            if !layer.has(only_alpha) {
                return Err(LoraError::MissingDown {
                    path: self.path(),
                    target: target.to_string(),
                    present: layer.keys.values().next().cloned().unwrap_or_default(),
                });
            }
            changes.blocks.extend(blocks);
        }
        changes.blocks = layout::undo_parts(changes.blocks, hint);
        Ok(changes)
    }

    /// The block of a part that the file gives under a name of its own.
    fn part(&self, target: &str, layer: &Layer, place: Place) -> Result<Block, LoraError> {
        let mut factors = self.factors(target, layer, 1)?;
        if factors.ups.len() != 1 {
            return Err(LoraError::UnusedKeys {
                path: self.path(),
                format: self.format,
                keys: layer.keys.values().cloned().collect(),
            });
        }
        let (_, up) = factors.ups.remove(0);
        self.check_rank(target, layer, &factors.down, &up)?;
        Ok(Block {
            part: place.part,
            of: place.of,
            down: factors.down,
            up,
            scale: factors.scale,
        })
    }

    /// The blocks of a layer that the file gives under its own name.
    fn whole(
        &self,
        target: &str,
        layer: &Layer,
        factors: Factors,
        parts: usize,
        hint: Option<&usize>,
    ) -> Result<Vec<Block>, LoraError> {
        let Factors { down, ups, scale } = factors;
        if let [(0, up)] = ups.as_slice()
            && layer.keys.contains_key(&Role::Up)
        {
            self.check_rank(target, layer, &down, up)?;
            let dense = Block {
                part: 0,
                of: 1,
                down,
                up: up.clone(),
                scale,
            };
            // The official format has blocks of its own: what it holds dense is dense.
            return Ok(match self.format {
                Format::Official => vec![dense],
                _ => layout::undo_block_diagonal(dense, parts, hint),
            });
        }
        let ranks: usize = ups.iter().map(|(_, up)| up.cols()).sum();
        if ranks != down.rows() {
            let key = layer.keys[&Role::Down].clone();
            return Err(LoraError::ShapeMismatch {
                path: self.path(),
                target: target.to_string(),
                key,
                found: vec![down.rows(), down.cols()],
                expected: format!("but the ranks of the lora_up blocks add up to {ranks}"),
            });
        }
        let of = ups.len();
        let mut row = 0;
        let blocks = ups.into_iter().map(|(part, up)| {
            let rank = up.cols();
            row += rank;
            Block {
                part,
                of,
                down: down.slice_rows(row - rank, rank),
                up,
                scale,
            }
        });
        Ok(blocks.collect())
    }

    /// Whether the only factor of the output side, which may be called a block, has the rank of the input side.
    fn check_rank(
        &self,
        target: &str,
        layer: &Layer,
        down: &Matrix,
        up: &Matrix,
    ) -> Result<(), LoraError> {
        if up.cols() == down.rows() {
            return Ok(());
        }
        let of_output = |role: &Role| matches!(role, Role::Up | Role::UpBlock(_));
        let mut keys = layer.keys.iter().filter(|(role, _)| of_output(role));
        Err(LoraError::ShapeMismatch {
            path: self.path(),
            target: target.to_string(),
            key: keys.next().map_or_else(String::new, |(_, key)| key.clone()),
            found: vec![up.rows(), up.cols()],
            expected: format!(
                "but the rank of its input side is {} (shape {:?})",
                down.rows(),
                [down.rows(), down.cols()]
            ),
        })
    }

    /// Reads the tensors of a layer. `parts` is how many output blocks there must be if there is
    /// more than one.
    fn factors(&self, target: &str, layer: &Layer, parts: usize) -> Result<Factors, LoraError> {
        let path = self.path();
        let mut ups = Vec::new();
        for (role, key) in &layer.keys {
            match role {
                Role::Up => ups.push((0, self.matrix(target, key)?)),
                Role::UpBlock(part) => ups.push((*part, self.matrix(target, key)?)),
                _ => {}
            }
        }
        let first = layer.keys.values().next().cloned().unwrap_or_default();
        let Some(down) = layer.keys.get(&Role::Down) else {
            return Err(LoraError::MissingDown {
                path,
                target: target.to_string(),
                present: first,
            });
        };
        let whole = layer.keys.contains_key(&Role::Up);
        if whole && ups.len() > 1 {
            return Err(LoraError::Duplicate {
                path,
                target: target.to_string(),
                keys: layer.keys.values().cloned().collect(),
            });
        }
        let expected = match ups.iter().map(|(part, _)| part + 1).max() {
            Some(count) if !whole => count.max(parts),
            _ => 1,
        };
        if let Some(missing) = (0..expected).find(|part| !ups.iter().any(|(p, _)| p == part)) {
            return Err(LoraError::MissingUp {
                path,
                target: target.to_string(),
                present: down.clone(),
                missing: match expected {
                    1 => "output side".to_string(),
                    _ => format!("output block {missing} of {expected}"),
                },
            });
        }
        let down = self.matrix(target, down)?;
        let rank = match ups.as_slice() {
            [_] => down.rows(),
            _ => down.rows() / expected,
        };
        let scale = self.scale(target, layer, rank)?;
        Ok(Factors { down, ups, scale })
    }

    pub(super) fn scale(&self, target: &str, layer: &Layer, rank: usize) -> Result<f64, LoraError> {
        let path = self.path();
        let explicit = match (
            layer.keys.get(&Role::AlphaScale),
            layer.keys.get(&Role::Alpha),
        ) {
            (Some(scale), Some(alpha)) => {
                return Err(LoraError::Duplicate {
                    path,
                    target: target.to_string(),
                    keys: vec![scale.clone(), alpha.clone()],
                });
            }
            (Some(key), None) => Some(self.scalar(target, key)?),
            (None, Some(key)) => Some(self.scalar(target, key)? / rank.max(1) as f64),
            (None, None) => None,
        };
        match (explicit, &self.config) {
            (Some(_), Some(_)) => Err(LoraError::AmbiguousScale {
                path,
                target: target.to_string(),
            }),
            (Some(scale), None) => Ok(scale),
            (None, Some(config)) => Ok(config.scale(&layer.spelled, Some(rank))?),
            (None, None) if self.format == Format::Official => {
                let down = layer.key(Role::Down).unwrap_or_default();
                Err(LoraError::MissingAlphaScale {
                    path,
                    target: target.to_string(),
                    key: down.replace(".lora_down.weight", ".alpha_scale"),
                })
            }
            (None, None) => Ok(1.0),
        }
    }
}

/// The keys that a block of part `part` came from.
fn factor_keys(layers: &[(Option<usize>, &Layer)], part: usize) -> FactorKeys {
    let of_part = |(of, _): &&(Option<usize>, &Layer)| of.is_none_or(|of| of == part);
    let key = |role: Role| {
        let (_, layer) = layers.iter().find(of_part)?;
        layer.keys.get(&role).cloned()
    };
    FactorKeys {
        down: key(Role::Down).unwrap_or_default(),
        up: key(Role::UpBlock(part))
            .or_else(|| key(Role::Up))
            .unwrap_or_default(),
    }
}
