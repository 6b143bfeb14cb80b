//! Training on a device.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use longcat_kernels::KernelBackend;
use longcat_train::{Outcome, TrainError, TrainObserver};

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
    let run = Run {
        config,
        default_checkpoint,
        observer,
        interrupt,
    };
    Ok(on_device(device, run)??)
}

struct Run<'a> {
    config: &'a Path,
    default_checkpoint: Option<&'a Path>,
    observer: &'a mut dyn TrainObserver,
    interrupt: &'a AtomicBool,
}

impl DeviceTask for Run<'_> {
    type Output = Result<Outcome, TrainError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        longcat_train::run::<B>(
            self.config,
            self.default_checkpoint,
            &device,
            self.observer,
            self.interrupt,
        )
    }
}
