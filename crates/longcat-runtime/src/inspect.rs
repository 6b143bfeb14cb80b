//! What files of weights are.

use std::path::Path;

use longcat_kernels::KernelBackend;
use longcat_video::{VideoError, WeightsReport};

use crate::{DeviceSpec, DeviceTask, RuntimeError, best_device, on_device};

/// Tells what a file is, or each network of a checkpoint; see [`longcat_video::inspect_weights`]. Nothing is
/// computed.
///
/// # Errors
/// [`RuntimeError::Video`] when the file or folder cannot be read.
pub fn inspect_weights(path: &Path) -> Result<Vec<WeightsReport>, RuntimeError> {
    let device = match cfg!(feature = "cpu") {
        true => DeviceSpec::Cpu,
        false => best_device(),
    };
    Ok(on_device(device, Inspect(path))??)
}

struct Inspect<'a>(&'a Path);

impl DeviceTask for Inspect<'_> {
    type Output = Result<Vec<WeightsReport>, VideoError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        longcat_video::inspect_weights::<B>(self.0, &device)
    }
}
