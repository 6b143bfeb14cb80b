//! The adapter that is trained.

use burn::tensor::DType;
use longcat_dit::{LongCatTransformer, lora_targets};
use longcat_kernels::KernelBackend;
use longcat_lora::{Adapter, LoraError, LoraOptions, LoraRegistry, LoraTraining};
use rand::Rng;

use crate::TrainError;
use crate::config::LoraConfig;
use crate::sampling::{Purpose, stream};

/// Nickname of the adapter that is trained.
pub const ADAPTER: &str = "trained";

/// Puts the adapter of a configuration on a frozen model: a new one, or a copy of the file to start
/// from. Factors are of `dtype` (f32 to train them) and the only parameters that require gradients.
///
/// New factors are drawn by the run's seed, the same on every device.
///
/// # Errors
/// [`TrainError::Lora`] names layers and shapes that do not fit, and targets that match no layer.
pub fn attach_adapter<B: KernelBackend>(
    model: &mut LongCatTransformer<B>,
    config: &LoraConfig,
    dtype: DType,
    seed: u64,
) -> Result<(), TrainError> {
    if let Some(file) = &config.start_from {
        let adapter = Adapter::read(file, lora_targets())?;
        if adapter.patches().next().is_some() {
            let what = format!(
                "lora.start_from: {} changes layers by more than two factors (DoRA, LoKr, weight or \
                 bias differences), which training cannot go on with; merge it into the model instead",
                file.display()
            );
            return Err(LoraError::InvalidSetting { what }.into());
        }
        let options = LoraOptions {
            strength: 1.0,
            dtype: Some(dtype),
        };
        model.load_adapter(ADAPTER, &adapter, options)?;
        return Ok(());
    }
    let mut rng = stream(seed, Purpose::Factors, 0);
    let mut uniform = |bound: f32| rng.random_range(-bound..bound);
    let created = model.create_adapter(ADAPTER, &config.adapter, dtype, &mut uniform);
    created.map_err(|error| match error {
        LoraError::UnknownModule { targets, .. } => LoraError::InvalidSetting {
            what: format!("lora.targets: no layer of the model matches {targets:?}"),
        },
        other => other,
    })?;
    Ok(())
}
