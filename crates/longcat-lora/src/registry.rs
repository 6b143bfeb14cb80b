//! Adapters on a model: loading, strengths, switching, unloading.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::DType;
use burn::tensor::backend::Backend;
use longcat_kernels::KernelBackend;
use serde::Serialize;

use crate::attach::{branch, difference};
use crate::{Adapter, Block, Change, LoraError, LoraHost, VectorPatch};

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
    ) -> Result<LoraReport, LoraError>
    where
        B: KernelBackend,
    {
        check_strength(options.strength)?;
        if self.adapters().iter().any(|status| status.name == name) {
            return Err(LoraError::AdapterExists { name: name.into() });
        }
        let untouched = check_fit(self, adapter)?;
        if depends_on_weights(adapter)
            && let Some(merged) = self.adapters().into_iter().find(|status| status.merged)
        {
            return Err(LoraError::Merged { name: merged.name });
        }
        let mut branches = BTreeMap::new();
        self.visit_lora(&mut |target, layer| {
            if let Some(branch) = branch(name, adapter, target, layer, options) {
                branches.insert(target.to_string(), branch);
            }
        });
        let mut applied: BTreeSet<String> = branches.keys().cloned().collect();
        self.visit_lora_mut(&mut |target, layer| {
            layer.adapters.extend(branches.remove(target));
        });
        self.visit_vectors_mut(&mut |tensor, vector| {
            let (layer, difference) = difference(adapter, tensor, vector);
            if let Some(difference) = difference {
                applied.insert(layer.to_string());
                vector.patches.push(VectorPatch {
                    name: name.to_string(),
                    difference,
                    strength: options.strength,
                    enabled: true,
                });
            }
        });
        Ok(LoraReport {
            name: name.to_string(),
            applied: applied.into_iter().collect(),
            untouched,
        })
    }

    /// The adapters on the model. Those on the same layers are in the order of loading.
    fn adapters(&self) -> Vec<AdapterStatus> {
        let mut list: Vec<AdapterStatus> = Vec::new();
        let mut add = |one: AdapterStatus| match list.iter_mut().find(|s| s.name == one.name) {
            Some(status) => {
                status.layers += 1;
                status.merged |= one.merged;
            }
            None => list.push(one),
        };
        self.visit_lora(&mut |_, layer| {
            for branch in &layer.adapters {
                add(AdapterStatus {
                    name: branch.name.clone(),
                    strength: branch.strength,
                    enabled: branch.enabled,
                    merged: branch.merged,
                    layers: 1,
                });
            }
        });
        self.visit_vectors(&mut |_, vector| {
            for patch in &vector.patches {
                add(AdapterStatus {
                    name: patch.name.clone(),
                    strength: patch.strength,
                    enabled: patch.enabled,
                    merged: false,
                    layers: 1,
                });
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
        change(self, name, |_, own| *own = strength)
    }

    /// Switches an adapter on or off.
    ///
    /// # Errors
    /// [`LoraError::UnknownAdapter`], [`LoraError::Merged`].
    fn set_adapter_enabled(&mut self, name: &str, enabled: bool) -> Result<(), LoraError> {
        change(self, name, |own, _| *own = enabled)
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
        change_all(self, &|name, enabled, own| {
            let choice = chosen.iter().find(|(chosen, _)| *chosen == name);
            *enabled = choice.is_some();
            if let Some((_, strength)) = choice {
                *own = *strength;
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
        self.visit_vectors_mut(&mut |_, vector| vector.patches.retain(|p| p.name != name));
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

/// Changes switch and strength of an adapter.
fn change<B: Backend, H: LoraHost<B> + ?Sized>(
    model: &mut H,
    name: &str,
    set: impl Fn(&mut bool, &mut f64),
) -> Result<(), LoraError> {
    changeable(model, name)?;
    change_all(model, &|other, enabled, strength| {
        if other == name {
            set(enabled, strength);
        }
    });
    Ok(())
}

/// Calls `set` with the name, switch and strength of everything that adapters have on the model.
fn change_all<B: Backend, H: LoraHost<B> + ?Sized>(
    model: &mut H,
    set: &dyn Fn(&str, &mut bool, &mut f64),
) {
    model.visit_lora_mut(&mut |_, layer| {
        for branch in &mut layer.adapters {
            set(&branch.name, &mut branch.enabled, &mut branch.strength);
        }
    });
    model.visit_vectors_mut(&mut |_, vector| {
        for patch in &mut vector.patches {
            set(&patch.name, &mut patch.enabled, &mut patch.strength);
        }
    });
}

fn depends_on_weights(adapter: &Adapter) -> bool {
    let mut patches = adapter.patches().flat_map(|(_, patches)| patches);
    patches.any(|p| matches!(p.change, Change::Decomposed { .. }))
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
    // By tensor, `[rows, columns]`; biases and vectors have one column.
    let mut shapes = BTreeMap::new();
    model.visit_lora(&mut |target, layer| {
        if adapter.get(target).is_none() && adapter.patches_of(target).is_empty() {
            untouched.push(target.to_string());
        }
        shapes.insert(format!("{target}.weight"), [layer.d_out(), layer.d_in()]);
        if layer.bias.is_some() {
            shapes.insert(format!("{target}.bias"), [layer.d_out(), 1]);
        }
    });
    let mut absent = BTreeSet::new();
    for (target, blocks) in adapter.targets() {
        let Some(weight) = shapes.get(&format!("{target}.weight")) else {
            absent.insert(target.to_string());
            continue;
        };
        for block in blocks {
            check_block(adapter, target, block, *weight)?;
        }
    }
    // Vectors carry differences only.
    model.visit_vectors(&mut |tensor, vector| {
        shapes.insert(tensor.to_string(), [vector.value.lazy_shape()[0], 1]);
    });
    for (target, patches) in adapter.patches() {
        for patch in patches {
            let tensor = format!("{target}.{}", patch.tensor());
            let Some(shape) = shapes.get(&tensor) else {
                absent.insert(if patch.bias {
                    tensor
                } else {
                    target.to_string()
                });
                continue;
            };
            if [patch.d_out(), patch.shape()[1]] != *shape {
                let expected = format!(
                    "as part {} of {}, but {tensor} has shape {shape:?}",
                    patch.part, patch.of
                );
                return Err(adapter.patch_mismatch(target, patch, expected));
            }
        }
    }
    if absent.is_empty() {
        return Ok(untouched);
    }
    Err(LoraError::UnknownModule {
        path: adapter.origin().to_path_buf(),
        targets: absent.into_iter().collect(),
    })
}

fn check_block(
    adapter: &Adapter,
    target: &str,
    block: &Block,
    weight: [usize; 2],
) -> Result<(), LoraError> {
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
    Ok(())
}
