//! Layers of adapters that are more than two factors: LoHa, LoKr, DoRA, differences.

use super::Format;
use super::keys::Role;
use super::scan::{Layer, Source};
use crate::error::UnsupportedKind;
use crate::{Block, Change, LoraError, Matrix, Patch};

/// The place of a layer's change: part `part` of `of`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) part: usize,
    pub(super) of: usize,
}

impl Layer {
    pub(super) fn key(&self, role: Role) -> Option<&str> {
        self.keys.get(&role).map(String::as_str)
    }

    pub(super) fn has(&self, matches: fn(Role) -> bool) -> bool {
        self.keys.keys().any(|role| matches(*role))
    }
}

impl Source {
    /// What the tensors of a layer say beside their two factors.
    pub(super) fn patches(
        &self,
        target: &str,
        layer: &Layer,
        place: Place,
    ) -> Result<Vec<(Patch, String)>, LoraError> {
        let patch = |bias, change, scale| Patch {
            bias,
            part: place.part,
            of: place.of,
            change,
            scale,
        };
        let mut patches = Vec::new();
        for (role, bias) in [(Role::Diff, false), (Role::DiffBias, true)] {
            if let Some(key) = layer.key(role) {
                let full = Change::Full(self.difference(target, key)?);
                patches.push((patch(bias, full, 1.0), key.to_string()));
            }
        }
        let kronecker = |r| {
            matches!(
                r,
                Role::Kronecker(_) | Role::KroneckerA(_) | Role::KroneckerB(_)
            )
        };
        if layer.has(kronecker) {
            self.no_magnitude(layer)?;
            let (left, left_rank) = self.half(target, layer, 1)?;
            let (right, right_rank) = self.half(target, layer, 2)?;
            // LyCORIS and ComfyUI: the rank of the second half counts, and without any there is
            // no scale, whatever alpha says. PEFT divides by the rank of its settings.
            let scale = match (right_rank.or(left_rank), &self.config) {
                (_, Some(config)) => config.scale(&layer.spelled, None)?,
                (None, None) => 1.0,
                (Some(rank), None) => self.scale(target, layer, rank)?,
            };
            let key = layer.keys.values().next().cloned().unwrap_or_default();
            patches.push((patch(false, Change::Kronecker { left, right }, scale), key));
        }
        Ok(patches)
    }

    /// A half of a Kronecker product and its rank, where it is a product itself.
    fn half(
        &self,
        target: &str,
        layer: &Layer,
        half: usize,
    ) -> Result<(Matrix, Option<usize>), LoraError> {
        let whole = layer.key(Role::Kronecker(half));
        let factors = (
            layer.key(Role::KroneckerA(half)),
            layer.key(Role::KroneckerB(half)),
        );
        match (whole, factors) {
            (Some(key), (None, None)) => Ok((self.matrix(target, key)?, None)),
            (None, (Some(a), Some(b))) => {
                let (a, b) = (self.matrix(target, a)?, self.matrix(target, b)?);
                if a.cols() != b.rows() {
                    return Err(self.unfit(target, layer, Role::KroneckerB(half), &b, a.cols()));
                }
                let rank = a.cols();
                Ok((product(&a, &b), Some(rank)))
            }
            _ => Err(self.unsupported(layer, UnsupportedKind::Lokr)),
        }
    }

    /// A LoHa layer as the low-rank product that it is: `(Σ a·b) ∘ (Σ c·d)` is the sum over all
    /// pairs of `(a∘c)·(b∘d)`.
    pub(super) fn hadamard(
        &self,
        target: &str,
        layer: &Layer,
        place: Place,
    ) -> Result<Option<Block>, LoraError> {
        if !layer.has(|r| matches!(r, Role::HadamardA(_) | Role::HadamardB(_))) {
            return Ok(None);
        }
        self.no_magnitude(layer)?;
        let mut factors = Vec::new();
        for role in [
            Role::HadamardA(1),
            Role::HadamardB(1),
            Role::HadamardA(2),
            Role::HadamardB(2),
        ] {
            let key = layer.key(role);
            let key = key.ok_or_else(|| self.unsupported(layer, UnsupportedKind::Loha))?;
            factors.push(self.matrix(target, key)?);
        }
        let [a1, b1, a2, b2] = [&factors[0], &factors[1], &factors[2], &factors[3]];
        for (half, a, b) in [(1, a1, b1), (2, a2, b2)] {
            if a.cols() != b.rows() {
                return Err(self.unfit(target, layer, Role::HadamardB(half), b, a.cols()));
            }
        }
        if a1.rows() != a2.rows() || b1.cols() != b2.cols() {
            return Err(self.unfit(target, layer, Role::HadamardA(2), a2, a1.cols()));
        }
        let scale = self.scale(target, layer, b1.rows())?;
        let transposed = |m: &Matrix| transpose(m.rows(), m.cols(), &m.to_f32());
        let up = pairs(&a1.to_f32(), a1.cols(), &a2.to_f32(), a2.cols());
        let down = pairs(&transposed(b1), b1.rows(), &transposed(b2), b2.rows());
        let rank = a1.cols() * a2.cols();
        Ok(Some(Block {
            part: place.part,
            of: place.of,
            down: Matrix::from_f32(rank, b1.cols(), &transpose(b1.cols(), rank, &down)),
            up: Matrix::from_f32(a1.rows(), rank, &up),
            scale,
        }))
    }

    /// A block with the magnitudes of its layer, if there are some.
    pub(super) fn decomposed(
        &self,
        target: &str,
        layer: &Layer,
        block: &Block,
    ) -> Result<Option<(Patch, String)>, LoraError> {
        let Some(key) = layer.key(Role::Magnitude) else {
            return Ok(None);
        };
        if self.format == Format::Official {
            return Err(self.unsupported(layer, UnsupportedKind::Dora));
        }
        let mut magnitude = self.difference(target, key)?;
        // PEFT's are always those of the outputs, whatever dimensions of a kernel are around them.
        if key.contains("lora_magnitude_vector") {
            let count = magnitude.rows() * magnitude.cols();
            magnitude = magnitude.reshaped(count, 1);
        }
        let change = Change::Decomposed {
            down: block.down.clone(),
            up: block.up.clone(),
            magnitude,
        };
        let patch = Patch {
            bias: false,
            part: block.part,
            of: block.of,
            change,
            scale: block.scale,
        };
        Ok(Some((patch, key.to_string())))
    }

    fn no_magnitude(&self, layer: &Layer) -> Result<(), LoraError> {
        match layer.key(Role::Magnitude) {
            Some(_) => Err(self.unsupported(layer, UnsupportedKind::Dora)),
            None => Ok(()),
        }
    }

    /// The error for a layer whose tensors are not all that its kind needs.
    pub(super) fn unsupported(&self, layer: &Layer, kind: UnsupportedKind) -> LoraError {
        let telling = match kind {
            UnsupportedKind::Dora => layer.key(Role::Magnitude),
            _ => None,
        };
        let first = layer.keys.iter().find(|(role, _)| **role != Role::Alpha);
        LoraError::Unsupported {
            path: self.path(),
            key: telling
                .or(first.map(|(_, key)| key.as_str()))
                .unwrap_or_default()
                .to_string(),
            kind,
        }
    }

    fn unfit(
        &self,
        target: &str,
        layer: &Layer,
        role: Role,
        found: &Matrix,
        rank: usize,
    ) -> LoraError {
        LoraError::ShapeMismatch {
            path: self.path(),
            target: target.to_string(),
            key: layer.key(role).unwrap_or_default().to_string(),
            found: vec![found.rows(), found.cols()],
            expected: format!("which does not fit the other factors of rank {rank}"),
        }
    }
}

/// `a · b` with sums in f32.
fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let (left, right, cols) = (a.to_f32(), b.to_f32(), b.cols());
    let mut sum = vec![0.0f32; a.rows() * cols];
    for (row, factors) in sum
        .chunks_exact_mut(cols.max(1))
        .zip(left.chunks_exact(a.cols().max(1)))
    {
        for (factor, other) in factors.iter().zip(right.chunks_exact(cols.max(1))) {
            row.iter_mut()
                .zip(other)
                .for_each(|(s, o)| *s += factor * o);
        }
    }
    Matrix::from_f32(a.rows(), cols, &sum)
}

/// Row by row, all products of a value of `a` with one of `c`.
fn pairs(a: &[f32], a_cols: usize, c: &[f32], c_cols: usize) -> Vec<f32> {
    let rows = a
        .chunks_exact(a_cols.max(1))
        .zip(c.chunks_exact(c_cols.max(1)));
    rows.flat_map(|(a, c)| a.iter().flat_map(move |a| c.iter().map(move |c| a * c)))
        .collect()
}

fn transpose(rows: usize, cols: usize, values: &[f32]) -> Vec<f32> {
    let index = (0..cols).flat_map(|col| (0..rows).map(move |row| row * cols + col));
    index.map(|i| values[i]).collect()
}
