//! New adapters, and reading trained ones back.

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::KernelBackend;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{Adapter, Block, LoraBranch, LoraError, LoraHost, LoraOptions, LoraRegistry, Matrix};

/// How fused layers (qkv and others) are adapted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fused {
    /// One pair of factors per part, as in the official files.
    #[default]
    Parts,
    /// One pair of factors over all parts.
    Whole,
}

/// A new adapter, to be trained.
#[derive(Debug, Clone)]
pub struct NewAdapter {
    /// Rank of every block.
    pub rank: usize,
    /// The scale is alpha over rank.
    pub alpha: f64,
    /// The scale is alpha over the root of the rank instead.
    pub rslora: bool,
    /// Patterns over canonical layer names; a layer is adapted where one of them matches.
    pub targets: Vec<Regex>,
    /// Patterns of layers to leave out.
    pub exclude: Vec<Regex>,
    /// How fused layers are adapted.
    pub fused: Fused,
}

/// Training adapters on a model. Implemented for every [`LoraHost`].
pub trait LoraTraining<B: Backend>: LoraHost<B> {
    /// Puts a new adapter on the model, enabled, with factors of `dtype` (f32 to train them whatever
    /// the base is). Input sides are as PyTorch's `Linear` draws its weight, from
    /// U(−1/√d_in, 1/√d_in): `uniform(b)` gives the next number between −b and b, and draws on the
    /// host make the adapter the same on every device. Output sides are zero, so that the model
    /// computes what it did. Returns the layers.
    ///
    /// # Errors
    /// [`LoraError::AdapterExists`], [`LoraError::UnknownModule`] for a target that no layer
    /// matches, [`LoraError::InvalidSetting`] for a rank of 0, an alpha that is not finite, or if no
    /// layer is left.
    fn create_adapter(
        &mut self,
        name: &str,
        new: &NewAdapter,
        dtype: DType,
        uniform: &mut dyn FnMut(f32) -> f32,
    ) -> Result<Vec<String>, LoraError>
    where
        B: KernelBackend,
    {
        if new.rank == 0 || !new.alpha.is_finite() {
            return Err(LoraError::InvalidSetting {
                what: format!(
                    "rank {} and alpha {}: the rank must be positive and alpha finite",
                    new.rank, new.alpha
                ),
            });
        }
        if self.adapters().iter().any(|status| status.name == name) {
            return Err(LoraError::AdapterExists { name: name.into() });
        }
        let mut layers = Vec::new();
        self.visit_lora(&mut |target, layer| {
            layers.push((target.to_string(), layer.d_in(), layer.d_out()));
        });
        let matched = |pattern: &&Regex| layers.iter().any(|(layer, ..)| pattern.is_match(layer));
        let unmatched: Vec<String> = new
            .targets
            .iter()
            .filter(|pattern| !matched(pattern))
            .map(|pattern| pattern.as_str().to_string())
            .collect();
        if !unmatched.is_empty() {
            return Err(LoraError::UnknownModule {
                path: name.into(),
                targets: unmatched,
            });
        }
        let any = |patterns: &[Regex], layer: &str| patterns.iter().any(|p| p.is_match(layer));
        layers.retain(|(layer, ..)| any(&new.targets, layer) && !any(&new.exclude, layer));
        if layers.is_empty() {
            return Err(LoraError::InvalidSetting {
                what: "targets: together with the excluded ones no layer is left".into(),
            });
        }
        let mut adapter = Adapter::new(name);
        for (layer, d_in, d_out) in &layers {
            let parts = match new.fused {
                Fused::Parts => self.target_table().parts(layer),
                Fused::Whole => 1,
            };
            let blocks = (0..parts).map(|part| new.block([part, parts], *d_in, *d_out, uniform));
            adapter.insert(layer, blocks.collect())?;
        }
        let options = LoraOptions {
            strength: 1.0,
            dtype: Some(dtype),
        };
        self.load_adapter(name, &adapter, options)?;
        Ok(layers.into_iter().map(|(layer, ..)| layer).collect())
    }

    /// Reads the factors of an adapter back from the device.
    ///
    /// # Errors
    /// [`LoraError::UnknownAdapter`]; [`LoraError::InvalidSetting`] when a factor cannot be read
    /// from its device, or for an adapter that is more than factors.
    fn export_adapter(&self, name: &str) -> Result<Adapter, LoraError> {
        let mut adapter = Adapter::new(name);
        let mut result = Ok(());
        self.visit_lora(&mut |target, layer| {
            let branch = layer.adapters.iter().find(|branch| branch.name == name);
            if let Some(branch) = branch.filter(|_| result.is_ok()) {
                result =
                    blocks(branch, layer.d_out()).and_then(|blocks| adapter.insert(target, blocks));
            }
        });
        result?;
        if adapter.is_empty() {
            return Err(LoraError::UnknownAdapter {
                name: name.to_string(),
                loaded: self.adapters().into_iter().map(|s| s.name).collect(),
            });
        }
        Ok(adapter)
    }
}

impl<B: Backend, H: LoraHost<B> + ?Sized> LoraTraining<B> for H {}

impl NewAdapter {
    /// A block of a layer: drawn input side, zeros at the output side.
    fn block(
        &self,
        [part, of]: [usize; 2],
        d_in: usize,
        d_out: usize,
        uniform: &mut dyn FnMut(f32) -> f32,
    ) -> Block {
        let (rank, rows) = (self.rank, d_out / of);
        let bound = 1.0 / (d_in as f32).sqrt();
        let down: Vec<f32> = (0..rank * d_in).map(|_| uniform(bound)).collect();
        Block {
            part,
            of,
            down: matrix(rank, d_in, &down),
            up: matrix(rows, rank, &vec![0.0; rows * rank]),
            scale: match self.rslora {
                true => self.alpha / (rank as f64).sqrt(),
                false => self.alpha / rank as f64,
            },
        }
    }
}

fn matrix(rows: usize, cols: usize, values: &[f32]) -> Matrix {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Matrix::from_bytes(rows, cols, DType::F32, bytes)
}

fn blocks<B: Backend>(branch: &LoraBranch<B>, d_out: usize) -> Result<Vec<Block>, LoraError> {
    let (Some(down), true, None) = (&branch.down, branch.terms.is_empty(), &branch.bias) else {
        return Err(LoraError::InvalidSetting {
            what: format!(
                "the adapter {:?} changes a layer by more than factors; only factors are read back",
                branch.name
            ),
        });
    };
    let down = download(down)?;
    let mut row = 0;
    branch
        .blocks
        .iter()
        .map(|block| {
            let (rows, rank) = (block.rows(), block.rank());
            row += rank;
            Ok(Block {
                part: rows.start / rows.len(),
                of: d_out / rows.len(),
                down: down.slice_rows(row - rank, rank),
                up: download(&block.up)?,
                scale: block.scale,
            })
        })
        .collect()
}

fn download<B: Backend>(factor: &Param<Tensor<B, 2>>) -> Result<Matrix, LoraError> {
    let tensor = factor.val();
    let [rows, cols] = tensor.dims();
    let data = tensor
        .try_into_data()
        .map_err(|e| LoraError::InvalidSetting {
            what: format!("a factor cannot be read from its device: {e}"),
        })?;
    let bytes = data.as_bytes().to_vec();
    Ok(Matrix::from_bytes(rows, cols, data.dtype, bytes))
}
