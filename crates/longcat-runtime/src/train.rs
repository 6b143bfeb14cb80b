//! Training on a device.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use longcat_kernels::KernelBackend;
use longcat_train::{Outcome, Ranks, RunPlan, TrainError, TrainObserver};

use crate::{DeviceSpec, DeviceTask, RuntimeError, on_device};

/// Trains as the TOML file at `config` says, from the newest checkpoint of its output folder if there
/// is one; see [`longcat_train::run`].
///
/// `default_checkpoint` is the base model of a file that names none. `interrupt` may be set at any
/// time: the state is then saved and the run ends without an error.
///
/// # Errors
/// [`RuntimeError`] when the device cannot be used; [`RuntimeError::Train`] names the key, file or
/// clip.
pub fn train_lora(
    device: DeviceSpec,
    config: &Path,
    default_checkpoint: Option<&Path>,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, RuntimeError> {
    let alone = Ranks::alone();
    train_lora_on_ranks(
        device,
        config,
        default_checkpoint,
        alone,
        observer,
        interrupt,
    )
}

/// As [`train_lora`], together with other ranks; see [`longcat_train::run_ranks`].
///
/// # Errors
/// Those of [`train_lora`], and [`RuntimeError::Train`] where another rank is gone, has failed or was
/// started with other settings.
pub fn train_lora_on_ranks(
    device: DeviceSpec,
    config: &Path,
    default_checkpoint: Option<&Path>,
    ranks: Ranks,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, RuntimeError> {
    let mut ranks = Some(ranks);
    let run = Run {
        config,
        default_checkpoint,
        ranks: &mut ranks,
        observer,
        interrupt,
    };
    let outcome = on_device(device, run);
    if let (Err(error), Some(ranks)) = (&outcome, ranks) {
        ranks.end(&error.to_string());
    }
    Ok(outcome??)
}

/// What the run of the TOML file at `config` would take of a device's memory; see
/// [`longcat_train::memory_plan`].
///
/// # Errors
/// [`RuntimeError`] when the device cannot be used; [`RuntimeError::Train`] names the key or file.
pub fn plan_training(
    device: DeviceSpec,
    config: &Path,
    default_checkpoint: Option<&Path>,
) -> Result<RunPlan, RuntimeError> {
    let plan = Plan {
        config,
        default_checkpoint,
    };
    Ok(on_device(device, plan)??)
}

struct Plan<'a> {
    config: &'a Path,
    default_checkpoint: Option<&'a Path>,
}

impl DeviceTask for Plan<'_> {
    type Output = Result<RunPlan, TrainError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        longcat_train::memory_plan::<B>(self.config, self.default_checkpoint, &device)
    }
}

struct Run<'a> {
    config: &'a Path,
    default_checkpoint: Option<&'a Path>,
    /// Taken when the device is there.
    ranks: &'a mut Option<Ranks>,
    observer: &'a mut dyn TrainObserver,
    interrupt: &'a AtomicBool,
}

impl DeviceTask for Run<'_> {
    type Output = Result<Outcome, TrainError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        longcat_train::run_ranks::<B>(
            self.config,
            self.default_checkpoint,
            &device,
            self.ranks.take().unwrap_or_else(Ranks::alone),
            self.observer,
            self.interrupt,
        )
    }
}
