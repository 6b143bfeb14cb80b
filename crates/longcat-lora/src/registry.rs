//! Adapters on a model: loading, strengths, switching, unloading.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use serde::Serialize;

use crate::{Adapter, Block, LoraBlock, LoraBranch, LoraError, LoraHost, Matrix};

/// What loading an adapter did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoraReport {
    /// The name of the adapter.
    pub name: String,
    /// Layers that carry the adapter now. All of the adapter's, or loading fails.
    pub applied: Vec<String>,
    /// Layers of the model that the adapter does not touch.
    pub untouched: Vec<String>,
}

/// One adapter on a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterStatus {
    /// The name of the adapter.
    pub name: String,
    /// Factor on the adapter's own scale.
    pub strength: f64,
    /// Whether it takes part in the forward pass.
    pub enabled: bool,
    /// Whether the base weights hold it.
    pub merged: bool,
    /// Number of layers that carry it.
    pub layers: usize,
}

/// How an adapter is put on a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraOptions {
    /// Factor on the adapter's own scale.
    pub strength: f64,
    /// The type of the factors on the device; the stored one where `None` (f32 for f64).
    pub dtype: Option<DType>,
}

impl Default for LoraOptions {
    fn default() -> Self {
        Self {
            strength: 1.0,
            dtype: None,
        }
    }
}

/// The adapters on a model, by name. Implemented for every [`LoraHost`].
///
/// Adapters lie beside the base weights, so enabling, disabling and switching cost nothing but the
/// memory of the factors. A call that fails changes nothing.
pub trait LoraRegistry<B: Backend>: LoraHost<B> {
    /// Puts an adapter on the model, enabled, under a name that is not in use yet.
    ///
    /// # Errors
    /// [`LoraError::AdapterExists`]; [`LoraError::UnknownModule`] and [`LoraError::ShapeMismatch`]
    /// where the adapter does not fit the model; [`LoraError::InvalidSetting`] for a strength that
    /// is not finite.
    fn load_adapter(
        &mut self,
        name: &str,
        adapter: &Adapter,
        options: LoraOptions,
    ) -> Result<LoraReport, LoraError> {
        check_strength(options.strength)?;
        if self.adapters().iter().any(|status| status.name == name) {
            return Err(LoraError::AdapterExists { name: name.into() });
        }
        let untouched = check_fit(self, adapter)?;
        let mut branches = BTreeMap::new();
        self.visit_lora(&mut |target, layer| {
            if let Some(blocks) = adapter.get(target) {
                let device = layer.weight.lazy_device();
                let branch = upload(name, blocks, options, &device);
                branches.insert(target.to_string(), branch);
            }
        });
        let applied = branches.keys().cloned().collect();
        self.visit_lora_mut(&mut |target, layer| {
            layer.adapters.extend(branches.remove(target));
        });
        Ok(LoraReport {
            name: name.to_string(),
            applied,
            untouched,
        })
    }

    /// The adapters on the model. Those on the same layers are in the order of loading.
    fn adapters(&self) -> Vec<AdapterStatus> {
        let mut list: Vec<AdapterStatus> = Vec::new();
        self.visit_lora(&mut |_, layer| {
            for branch in &layer.adapters {
                match list.iter_mut().find(|status| status.name == branch.name) {
                    Some(status) => {
                        status.layers += 1;
                        status.merged |= branch.merged;
                    }
                    None => list.push(AdapterStatus {
                        name: branch.name.clone(),
                        strength: branch.strength,
                        enabled: branch.enabled,
                        merged: branch.merged,
                        layers: 1,
                    }),
                }
            }
        });
        list
    }

    /// Changes how strongly an adapter acts.
    ///
    /// # Errors
    /// [`LoraError::UnknownAdapter`], [`LoraError::Merged`], [`LoraError::InvalidSetting`] for a
    /// strength that is not finite.
    fn set_adapter_strength(&mut self, name: &str, strength: f64) -> Result<(), LoraError> {
        check_strength(strength)?;
        change(self, name, |branch| branch.strength = strength)
    }

    /// Switches an adapter on or off.
    ///
    /// # Errors
    /// [`LoraError::UnknownAdapter`], [`LoraError::Merged`].
    fn set_adapter_enabled(&mut self, name: &str, enabled: bool) -> Result<(), LoraError> {
        change(self, name, |branch| branch.enabled = enabled)
    }

    /// Enables exactly these adapters with these strengths, and disables all others.
    ///
    /// # Errors
    /// [`LoraError::UnknownAdapter`]; [`LoraError::Merged`] if any adapter is merged;
    /// [`LoraError::InvalidSetting`] for a strength that is not finite.
    fn use_adapters(&mut self, chosen: &[(&str, f64)]) -> Result<(), LoraError> {
        let loaded = self.adapters();
        for (name, strength) in chosen {
            check_strength(*strength)?;
            find(&loaded, name)?;
        }
        if let Some(merged) = loaded.iter().find(|status| status.merged) {
            return Err(LoraError::Merged {
                name: merged.name.clone(),
            });
        }
        self.visit_lora_mut(&mut |_, layer| {
            for branch in &mut layer.adapters {
                let choice = chosen.iter().find(|(name, _)| *name == branch.name);
                branch.enabled = choice.is_some();
                if let Some((_, strength)) = choice {
                    branch.strength = *strength;
                }
            }
        });
        Ok(())
    }

    /// Takes an adapter off the model and frees its factors.
    ///
    /// # Errors
    /// [`LoraError::UnknownAdapter`], [`LoraError::Merged`].
    fn unload_adapter(&mut self, name: &str) -> Result<(), LoraError> {
        changeable(self, name)?;
        self.visit_lora_mut(&mut |_, layer| layer.adapters.retain(|branch| branch.name != name));
        Ok(())
    }
}

impl<B: Backend, H: LoraHost<B> + ?Sized> LoraRegistry<B> for H {}

pub(crate) fn check_strength(strength: f64) -> Result<(), LoraError> {
    if strength.is_finite() {
        return Ok(());
    }
    Err(LoraError::InvalidSetting {
        what: format!("the strength {strength} is not a finite number"),
    })
}

fn find<'a>(loaded: &'a [AdapterStatus], name: &str) -> Result<&'a AdapterStatus, LoraError> {
    let found = loaded.iter().find(|status| status.name == name);
    found.ok_or_else(|| LoraError::UnknownAdapter {
        name: name.to_string(),
        loaded: loaded.iter().map(|status| status.name.clone()).collect(),
    })
}

fn changeable<B: Backend, H: LoraHost<B> + ?Sized>(model: &H, name: &str) -> Result<(), LoraError> {
    if find(&model.adapters(), name)?.merged {
        return Err(LoraError::Merged { name: name.into() });
    }
    Ok(())
}

fn change<B: Backend, H: LoraHost<B> + ?Sized>(
    model: &mut H,
    name: &str,
    set: impl Fn(&mut LoraBranch<B>),
) -> Result<(), LoraError> {
    changeable(model, name)?;
    model.visit_lora_mut(&mut |_, layer| {
        let branches = layer.adapters.iter_mut();
        branches.filter(|b| b.name == name).for_each(&set);
    });
    Ok(())
}

/// Checks names and shapes of an adapter against a model, which needs no weights for that; returns
/// the layers that the adapter leaves alone.
///
/// # Errors
/// [`LoraError::UnknownModule`] and [`LoraError::ShapeMismatch`].
pub fn check_fit<B: Backend, H: LoraHost<B> + ?Sized>(
    model: &H,
    adapter: &Adapter,
) -> Result<Vec<String>, LoraError> {
    let mut untouched = Vec::new();
    let mut shapes = BTreeMap::new();
    model.visit_lora(&mut |target, layer| {
        if adapter.get(target).is_none() {
            untouched.push(target.to_string());
        }
        shapes.insert(target.to_string(), [layer.d_out(), layer.d_in()]);
    });
    let absent = adapter.targets().filter(|(t, _)| !shapes.contains_key(*t));
    let absent: Vec<String> = absent.map(|(target, _)| target.to_string()).collect();
    if !absent.is_empty() {
        return Err(LoraError::UnknownModule {
            path: adapter.origin().to_path_buf(),
            targets: absent,
        });
    }
    for (target, blocks) in adapter.targets() {
        let weight = shapes[target];
        for block in blocks {
            if block.down.cols() != weight[1] {
                let expected = format!(
                    "but the layer has {} input features (weight {weight:?})",
                    weight[1]
                );
                return Err(adapter.mismatch(target, block, false, expected));
            }
            if block.d_out() != weight[0] {
                let expected = format!(
                    "as part {} of {}, but the layer has {} output features (weight {weight:?})",
                    block.part, block.of, weight[0]
                );
                return Err(adapter.mismatch(target, block, true, expected));
            }
        }
    }
    Ok(untouched)
}

fn upload<B: Backend>(
    name: &str,
    blocks: &[Block],
    options: LoraOptions,
    device: &B::Device,
) -> LoraBranch<B> {
    let factor = |matrix: &Matrix| {
        let stored = match matrix.dtype() {
            DType::F64 => DType::F32,
            dtype => dtype,
        };
        let dtype = options.dtype.unwrap_or(stored);
        let data = matrix.to_tensor_data().convert_dtype(dtype);
        Param::from_tensor(Tensor::from_data(data, (device, dtype)))
    };
    let downs: Vec<Matrix> = blocks.iter().map(|b| b.down.clone()).collect();
    LoraBranch {
        name: name.to_string(),
        down: factor(&Matrix::stack(&downs)),
        blocks: blocks
            .iter()
            .map(|block| LoraBlock {
                up: factor(&block.up),
                start: block.part * block.up.rows(),
                scale: block.scale,
            })
            .collect(),
        strength: options.strength,
        enabled: true,
        merged: false,
    }
}
