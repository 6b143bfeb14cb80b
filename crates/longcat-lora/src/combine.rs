//! One adapter that does what several do together.

use std::collections::BTreeMap;

use crate::registry::check_strength;
use crate::{Adapter, Block, Change, LoraError, Matrix, Patch};

impl Adapter {
    /// One adapter that does at strength 1 what several do together at these strengths: ranks are
    /// put side by side, differences are added up.
    ///
    /// Factors keep their bits where one scale serves all on a layer; otherwise the output sides are
    /// rescaled in f32.
    ///
    /// # Errors
    /// [`LoraError::InvalidSetting`] for a strength that is not finite, and for a DoRA layer at
    /// another strength than 1 or beside another change, which no adapter can express;
    /// [`LoraError::ShapeMismatch`] where adapters are for layers of different shapes.
    pub fn combine(adapters: &[(&Self, f64)]) -> Result<Self, LoraError> {
        let mut combined = Self::new("combined adapter");
        let mut blocks: BTreeMap<&str, Vec<Block>> = BTreeMap::new();
        let mut patches: BTreeMap<&str, Vec<Patch>> = BTreeMap::new();
        for (adapter, strength) in adapters {
            check_strength(*strength)?;
            for (layer, own) in adapter.targets() {
                let scaled = own.iter().map(|block| Block {
                    scale: block.scale * strength,
                    ..block.clone()
                });
                blocks.entry(layer).or_default().extend(scaled);
            }
            for (layer, own) in adapter.patches() {
                for patch in own {
                    let patch = with_strength(layer, patch, *strength)?;
                    patches.entry(layer).or_default().push(patch);
                }
            }
        }
        for (layer, blocks) in blocks {
            combined.insert(layer, side_by_side(&combined, layer, blocks)?)?;
        }
        for (layer, patches) in patches {
            let decomposed = |p: &Patch| matches!(p.change, Change::Decomposed { .. });
            let others = patches.iter().filter(|p| !p.bias).count() > 1;
            if patches.iter().any(decomposed) && (others || combined.get(layer).is_some()) {
                return Err(LoraError::InvalidSetting {
                    what: format!("{layer}: a DoRA layer cannot be combined with other changes"),
                });
            }
            combined.insert_patches(layer, summed(patches))?;
        }
        Ok(combined)
    }
}

fn with_strength(layer: &str, patch: &Patch, strength: f64) -> Result<Patch, LoraError> {
    if matches!(patch.change, Change::Decomposed { .. }) {
        if strength == 1.0 {
            return Ok(patch.clone());
        }
        return Err(LoraError::InvalidSetting {
            what: format!(
                "{layer}: a DoRA layer can be combined at strength 1 only, not {strength}"
            ),
        });
    }
    Ok(Patch {
        scale: patch.scale * strength,
        ..patch.clone()
    })
}

/// Differences of one place as one; the others as they are.
fn summed(patches: Vec<Patch>) -> Vec<Patch> {
    let mut sums: Vec<Patch> = Vec::new();
    for patch in patches {
        let place = |p: &&mut Patch| {
            (p.bias, p.part, p.of) == (patch.bias, patch.part, patch.of)
                && matches!(p.change, Change::Full(_))
        };
        let Change::Full(full) = &patch.change else {
            sums.push(patch);
            continue;
        };
        match sums.iter_mut().find(place) {
            Some(sum) => {
                let [rows, cols] = sum.shape();
                let mut values: Vec<f32> = vec![0.0; rows * cols];
                for (matrix, scale) in [(full, patch.scale), (full_of(sum), sum.scale)] {
                    let added = values.iter_mut().zip(matrix.to_f32());
                    added.for_each(|(v, d)| *v += (scale * f64::from(d)) as f32);
                }
                sum.change = Change::Full(Matrix::from_f32(rows, cols, &values));
                sum.scale = 1.0;
            }
            // Formats have no scale for a difference.
            None if patch.scale == 1.0 => sums.push(patch),
            None => sums.push(Patch {
                change: Change::Full(rescaled(full, patch.scale)),
                scale: 1.0,
                ..patch
            }),
        }
    }
    sums
}

fn full_of(patch: &Patch) -> &Matrix {
    match &patch.change {
        Change::Full(full) => full,
        _ => unreachable!("chosen for its kind"),
    }
}

/// The matrix times `factor`: in its own type if that is exact, in f32 otherwise.
fn rescaled(matrix: &Matrix, factor: f64) -> Matrix {
    matrix.scaled_exactly(factor).unwrap_or_else(|| {
        let values = matrix.to_f32();
        let scaled = values.iter().map(|v| (factor * f64::from(*v)) as f32);
        Matrix::from_f32(matrix.rows(), matrix.cols(), &scaled.collect::<Vec<_>>())
    })
}

/// The sum of blocks that may cover the same rows as blocks that do not.
fn side_by_side(
    adapter: &Adapter,
    layer: &str,
    blocks: Vec<Block>,
) -> Result<Vec<Block>, LoraError> {
    let of = blocks.iter().map(|b| b.of).max().unwrap_or(1);
    let mut parts: BTreeMap<usize, Vec<Block>> = BTreeMap::new();
    let first = blocks.first().map(|b| (b.d_out(), b.down.cols()));
    for block in blocks {
        if Some((block.d_out(), block.down.cols())) != first
            || !matches!(block.of, n if n == of || n == 1)
        {
            let expected = "which differs from that of the adapters before it".into();
            return Err(adapter.mismatch(layer, &block, true, expected));
        }
        if block.of == of {
            parts.entry(block.part).or_default().push(block);
            continue;
        }
        // A block over all rows, beside others over parts.
        let rows = block.up.rows() / of;
        for part in 0..of {
            parts.entry(part).or_default().push(Block {
                part,
                of,
                up: block.up.slice_rows(part * rows, rows),
                ..block.clone()
            });
        }
    }
    Ok(parts.into_values().map(joined).collect())
}

/// Blocks of one part as one of all their ranks.
fn joined(blocks: Vec<Block>) -> Block {
    if let [one] = blocks.as_slice() {
        return one.clone();
    }
    let common = blocks.iter().map(|b| b.scale).find(|s| *s != 0.0);
    let common = common.unwrap_or(1.0);
    let ups: Vec<Matrix> = blocks
        .iter()
        .map(|b| rescaled(&b.up, b.scale / common))
        .collect();
    let downs: Vec<Matrix> = blocks.iter().map(|b| b.down.clone()).collect();
    Block {
        down: Matrix::stack(&downs),
        up: Matrix::beside(&ups),
        scale: common,
        ..blocks[0].clone()
    }
}
