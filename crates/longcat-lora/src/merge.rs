//! Merging adapters into the weights of a model, and restoring the weights.

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_weights::{Quantization, Weight, WeightFiles};

use crate::{LoraBranch, LoraError, LoraHost, LoraLinear, LoraRegistry, Requantized};
use longcat_kernels::{KernelBackend, linear};

/// Where the weights from before a merge are read back from.
pub trait OriginalWeights {
    /// The shape of a layer's weight.
    ///
    /// # Errors
    /// [`LoraError::NoOriginal`] if it is not there.
    fn shape(&self, target: &str) -> Result<Vec<usize>, LoraError>;

    /// A layer's weight `[out, in]`, as it was first loaded.
    ///
    /// # Errors
    /// [`LoraError::NoOriginal`] if it is not there.
    fn weight(&self, target: &str) -> Result<TensorData, LoraError>;
}

/// The checkpoint that the model was loaded from, whose keys are canonical names and `.weight`.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointWeights<'a>(pub &'a WeightFiles);

/// Copies of weights on the host, for models that were not loaded from a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct KeptWeights(BTreeMap<String, TensorData>);

impl OriginalWeights for CheckpointWeights<'_> {
    fn shape(&self, target: &str) -> Result<Vec<usize>, LoraError> {
        let info = self.0.info(&format!("{target}.weight"));
        info.map(|info| info.shape)
            .ok_or_else(|| LoraError::NoOriginal {
                target: target.to_string(),
                reason: format!("{} has no {target}.weight", self.0.path().display()),
            })
    }

    fn weight(&self, target: &str) -> Result<TensorData, LoraError> {
        Ok(self.0.tensor_data(&format!("{target}.weight"))?)
    }
}

impl OriginalWeights for KeptWeights {
    fn shape(&self, target: &str) -> Result<Vec<usize>, LoraError> {
        self.weight(target).map(|data| data.shape.to_vec())
    }

    fn weight(&self, target: &str) -> Result<TensorData, LoraError> {
        let data = self.0.get(target).cloned();
        data.ok_or_else(|| LoraError::NoOriginal {
            target: target.to_string(),
            reason: "it was not kept before merging".into(),
        })
    }
}

/// Merging adapters into the base weights, for inference without any work beside the base layers.
/// Implemented for every [`LoraHost`].
pub trait LoraMerge<B: KernelBackend>: LoraHost<B> {
    /// Copies of the weights that [`Self::merge_adapters`] would change, to be kept where there is
    /// no checkpoint to read them from again.
    ///
    /// # Errors
    /// [`LoraError::NoOriginal`] when a weight cannot be read back from its device.
    fn weights_to_merge(&self) -> Result<KeptWeights, LoraError> {
        let mut kept = KeptWeights::default();
        let mut failed = None;
        self.visit_lora(&mut |target, layer| {
            if !is_to_merge(layer) {
                return;
            }
            match layer.weight.val().try_into_data() {
                Ok(data) => {
                    kept.0.insert(target.to_string(), data);
                }
                Err(error) => failed = Some((target.to_string(), error.to_string())),
            }
        });
        match failed {
            Some((target, reason)) => Err(LoraError::NoOriginal { target, reason }),
            None => Ok(kept),
        }
    }

    /// Adds the enabled adapters to the base weights: `W + Σ strength · scale · up · down`,
    /// computed in f32 and rounded once to the type of `W`.
    ///
    /// # Errors
    /// [`LoraError::Merged`] if some adapter is merged already: adding to rounded weights would
    /// round twice; [`LoraError::PackedBase`] if a weight is packed. Nothing has changed then.
    /// [`LoraError::Overflow`] where a sum is larger than the type of `W` holds; the
    /// layers before it are merged then, until they are unmerged.
    fn merge_adapters(&mut self) -> Result<(), LoraError> {
        merge_all::<B, Self>(self, false).map(drop)
    }

    /// As [`Self::merge_adapters`], and sums with packed weights are packed again as these were, on the host.
    /// Says how far that is off. What was packed again cannot be unmerged: load the model anew.
    ///
    /// # Errors
    /// As [`Self::merge_adapters`]; [`LoraError::NotRequantized`] where a weight is packed in a way in which
    /// nothing is packed here. Nothing has changed then.
    fn merge_adapters_requantized(&mut self) -> Result<Requantized, LoraError> {
        merge_all::<B, Self>(self, true)
    }

    /// Puts back the weights from before [`Self::merge_adapters`], bit for bit. The adapters lie
    /// beside them again, enabled as before.
    ///
    /// # Errors
    /// [`LoraError::NoOriginal`] where `originals` is not what the model was loaded from, and for weights that
    /// were packed again; nothing has changed then. [`LoraError::File`] when a weight cannot be read any more; the layers
    /// after it are still merged, and the call can be repeated.
    fn unmerge_adapters(&mut self, originals: &dyn OriginalWeights) -> Result<(), LoraError> {
        let mut result = Ok(());
        self.visit_lora(&mut |target, layer| {
            if result.is_ok() && is_merged(layer) {
                result = check_original(target, layer, originals);
            }
        });
        result?;
        // Layer by layer, so that the device never holds two copies of the model.
        let mut result = Ok(());
        self.visit_lora_mut(&mut |target, layer| {
            if result.is_ok() && is_merged(layer) {
                result = restore(target, layer, originals);
            }
        });
        result
    }
}

impl<B: KernelBackend, H: LoraHost<B> + ?Sized> LoraMerge<B> for H {}

fn merge_all<B: KernelBackend, H: LoraHost<B> + ?Sized>(
    host: &mut H,
    requantize: bool,
) -> Result<Requantized, LoraError> {
    if let Some(status) = host.adapters().into_iter().find(|status| status.merged) {
        return Err(LoraError::Merged { name: status.name });
    }
    let mut result = Ok(());
    host.visit_lora(&mut |target, layer| {
        if result.is_ok() && is_to_merge(layer) {
            result = check_base(target, layer, requantize);
        }
    });
    result?;
    let mut requantized = Requantized::default();
    let mut result = Ok(());
    host.visit_lora_mut(&mut |target, layer| {
        if result.is_ok() && is_to_merge(layer) {
            result = merge(target, layer, &mut requantized);
        }
    });
    result.map(|()| requantized)
}

/// Whether something can be merged into a layer's weight.
fn check_base<B: Backend>(
    target: &str,
    layer: &LoraLinear<B>,
    requantize: bool,
) -> Result<(), LoraError> {
    let layouts = layer.weight.layouts();
    let target = target.to_string();
    match layouts.first().map(|layout| layout.kind) {
        Some(kind) if !requantize => Err(LoraError::PackedBase {
            target,
            kind: format!("{kind:?}"),
        }),
        _ => match layouts.iter().find(|l| Quantization::like(l).is_none()) {
            Some(layout) => Err(LoraError::NotRequantized {
                target,
                kind: format!("{:?}", layout.kind),
            }),
            None => Ok(()),
        },
    }
}

fn is_merged<B: Backend>(layer: &LoraLinear<B>) -> bool {
    layer.adapters.iter().any(LoraBranch::is_merged)
}

/// Whether an enabled adapter changes the weight. Biases and norms are never merged: adding to
/// them costs nothing.
fn is_to_merge<B: Backend>(layer: &LoraLinear<B>) -> bool {
    let mut enabled = layer.adapters.iter().filter(|b| b.is_enabled());
    enabled.any(LoraBranch::changes_weight)
}

fn check_original<B: Backend>(
    target: &str,
    layer: &LoraLinear<B>,
    originals: &dyn OriginalWeights,
) -> Result<(), LoraError> {
    if layer.weight.packed_kind().is_some() {
        return Err(LoraError::NoOriginal {
            target: target.to_string(),
            reason: "it was packed again, which loading the model anew undoes".into(),
        });
    }
    let shape = originals.shape(target)?;
    let expected = [layer.d_out(), layer.d_in()];
    // The kernel of a convolution is flat in the layer.
    let rows = shape.first().copied().unwrap_or_default();
    if shape.len() >= 2 && [rows, shape[1..].iter().product()] == expected {
        return Ok(());
    }
    Err(LoraError::NoOriginal {
        target: target.to_string(),
        reason: format!("it has shape {shape:?} there and {expected:?} in the model"),
    })
}

fn restore<B: KernelBackend>(
    target: &str,
    layer: &mut LoraLinear<B>,
    originals: &dyn OriginalWeights,
) -> Result<(), LoraError> {
    let mut data = originals.weight(target)?;
    data.shape = [layer.d_out(), layer.d_in()].into();
    replace_weight(target, layer, |merged| {
        // As when the model was loaded: cast on the host, then uploaded.
        let dtype = merged.dtype();
        Tensor::from_data(data.convert_dtype(dtype), (&merged.device(), dtype))
    })?;
    layer.adapters.iter_mut().for_each(|b| b.merged = false);
    Ok(())
}

fn merge<B: KernelBackend>(
    target: &str,
    layer: &mut LoraLinear<B>,
    requantized: &mut Requantized,
) -> Result<(), LoraError> {
    let weight = layer.weight.val();
    let dtype = weight.dtype();
    let enabled = layer.adapters.iter().filter(|b| b.enabled);
    let sum = enabled.fold(weight.clone().cast(DType::F32), |sum, branch| {
        branch.add_delta(sum, &weight)
    });
    let merged = sum.cast(dtype);
    let largest = merged.clone().cast(DType::F32).abs().max().into_data();
    if !largest.iter::<f32>().all(f32::is_finite) {
        return Err(LoraError::Overflow {
            target: target.to_string(),
            dtype: format!("{dtype:?}").to_lowercase(),
        });
    }
    match layer.weight.packed_kind() {
        None => replace_weight(target, layer, |_| merged)?,
        Some(_) => pack_again(target, layer, merged, requantized)?,
    }
    for branch in layer.adapters.iter_mut().filter(|b| b.enabled) {
        branch.merged = true;
    }
    Ok(())
}

/// Replaces a packed weight by merged numbers, packed in the same way.
fn pack_again<B: KernelBackend>(
    target: &str,
    layer: &mut LoraLinear<B>,
    merged: Tensor<B, 2>,
    requantized: &mut Requantized,
) -> Result<(), LoraError> {
    let data = merged.try_into_data();
    let data = data.map_err(|error| LoraError::NoOriginal {
        target: target.to_string(),
        reason: error.to_string(),
    })?;
    let values: Vec<f32> = data.iter::<f32>().collect();
    // Whether it can be was asked of all layers before.
    if let Some((weight, off)) = layer.weight.requantized(&values) {
        layer.weight = weight;
        requantized.add(target, off);
    }
    Ok(())
}

fn replace_weight<B: KernelBackend>(
    target: &str,
    layer: &mut LoraLinear<B>,
    new: impl FnOnce(Tensor<B, 2>) -> Tensor<B, 2>,
) -> Result<(), LoraError> {
    match &layer.weight {
        Weight::Dense(param) => {
            let param = param.clone().map(|weight| {
                let trained = weight.is_require_grad();
                new(weight).detach().set_require_grad(trained)
            });
            layer.weight = Weight::Dense(param);
        }
        // They are packed again, and never restored.
        Weight::Packed(_) => {}
        Weight::Streamed(streamed) => {
            let new = new(streamed.tensor()).try_into_data();
            let data = new.map_err(|error| LoraError::NoOriginal {
                target: target.to_string(),
                reason: error.to_string(),
            })?;
            layer.weight = Weight::Streamed(streamed.with_values(data));
        }
    }
    Ok(())
}

impl<B: KernelBackend> LoraBranch<B> {
    /// `sum` with what the branch adds to `weight`, `[d_out, d_in]` in f32.
    fn add_delta(&self, sum: Tensor<B, 2>, weight: &Tensor<B, 2>) -> Tensor<B, 2> {
        let mut sum = sum;
        if let Some(down) = &self.down {
            sum = sum + self.low_rank(&down.val(), weight.dims()[0]);
        }
        self.terms.iter().fold(sum, |sum, term| {
            sum + term.delta(weight).mul_scalar(self.strength)
        })
    }

    /// The products of all blocks, in f32.
    fn low_rank(&self, down: &Tensor<B, 2>, d_out: usize) -> Tensor<B, 2> {
        let down = down.clone().cast(DType::F32);
        let d_in = down.dims()[1];
        let device = down.device();
        let zeros = |rows| Tensor::zeros([rows, d_in], (&device, DType::F32));
        let mut parts = Vec::new();
        let (mut row, mut rank) = (0, 0);
        for block in &self.blocks {
            let rows = block.rows();
            if rows.start > row {
                parts.push(zeros(rows.start - row));
            }
            let up = block.up.val().cast(DType::F32);
            let product = linear(
                up,
                down.clone().narrow(0, rank, block.rank()).transpose(),
                None,
            );
            parts.push(product.mul_scalar(self.strength * block.scale));
            row = rows.end;
            rank += block.rank();
        }
        if row < d_out {
            parts.push(zeros(d_out - row));
        }
        Tensor::cat(parts, 0)
    }
}
