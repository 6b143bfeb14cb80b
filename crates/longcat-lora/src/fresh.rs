use burn::module::{Initializer, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::{
    Adapter, Block, LoraBlock, LoraBranch, LoraError, LoraHost, LoraLinear, LoraRegistry, Matrix,
};

/// A new adapter, to be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAdapter {
    /// Rank of every block.
    pub rank: usize,
    /// The scale is alpha over rank.
    pub alpha: f64,
    /// Layers to adapt: whole canonical names, or their ends from a dot on (`attn.qkv`).
    pub targets: Vec<String>,
}

/// Training adapters on a model. Implemented for every [`LoraHost`].
pub trait LoraTraining<B: Backend>: LoraHost<B> {
    /// Puts a new adapter on the model, enabled, with a block for every part of fused layers. Input
    /// sides are drawn as PyTorch's `Linear` draws its weight, U(−1/√d_in, 1/√d_in), from the
    /// backend's random numbers; output sides are zero, so that the model computes what it did.
    /// Factors are f32 whatever the base is.
    ///
    /// # Errors
    /// [`LoraError::AdapterExists`], [`LoraError::UnknownModule`] for a target that no layer
    /// matches, [`LoraError::InvalidSetting`] for a rank of 0 or an alpha that is not finite.
    fn create_adapter(&mut self, name: &str, new: &NewAdapter) -> Result<Vec<String>, LoraError> {
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
        self.visit_lora(&mut |target, _| layers.push(target.to_string()));
        let unmatched: Vec<String> = new
            .targets
            .iter()
            .filter(|chosen| !layers.iter().any(|layer| addresses(chosen, layer)))
            .cloned()
            .collect();
        if !unmatched.is_empty() {
            return Err(LoraError::UnknownModule {
                path: name.into(),
                targets: unmatched,
            });
        }
        layers.retain(|layer| new.targets.iter().any(|chosen| addresses(chosen, layer)));
        let parts: Vec<usize> = layers
            .iter()
            .map(|layer| self.target_table().parts(layer))
            .collect();
        self.visit_lora_mut(&mut |target, layer| {
            if let Some(index) = layers.iter().position(|chosen| chosen == target) {
                let branch = fresh_branch(name, layer, new, parts[index]);
                layer.adapters.push(branch);
            }
        });
        Ok(layers)
    }

    /// Reads the factors of an adapter back from the device.
    ///
    /// # Errors
    /// [`LoraError::UnknownAdapter`]; [`LoraError::InvalidSetting`] when a factor cannot be read
    /// from its device.
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

fn addresses(chosen: &str, layer: &str) -> bool {
    layer
        .strip_suffix(chosen)
        .is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

fn fresh_branch<B: Backend>(
    name: &str,
    layer: &LoraLinear<B>,
    new: &NewAdapter,
    parts: usize,
) -> LoraBranch<B> {
    let device = layer.weight.lazy_device();
    let (d_in, rows) = (layer.d_in(), layer.d_out() / parts);
    let bound = 1.0 / (d_in as f64).sqrt();
    let drawn = Initializer::Uniform {
        min: -bound,
        max: bound,
    };
    LoraBranch {
        name: name.to_string(),
        down: drawn.init([parts * new.rank, d_in], &device),
        blocks: (0..parts)
            .map(|part| LoraBlock {
                up: Initializer::Zeros.init([rows, new.rank], &device),
                start: part * rows,
                scale: new.alpha / new.rank as f64,
            })
            .collect(),
        strength: 1.0,
        enabled: true,
        merged: false,
    }
}

fn blocks<B: Backend>(branch: &LoraBranch<B>, d_out: usize) -> Result<Vec<Block>, LoraError> {
    let down = download(&branch.down)?;
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
