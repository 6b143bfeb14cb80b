//! The device of a command.

use std::fmt::Display;
use std::sync::Once;

use longcat_runtime::{DeviceSpec, best_device, kernel_problem};

use crate::note;

/// The device asked for, or the best there is, which is then named on stderr.
pub fn device_or_best<D: From<DeviceSpec> + Display>(asked: Option<D>) -> D {
    asked.unwrap_or_else(|| {
        let device = D::from(best_device());
        note!("running on {device}; --device chooses another");
        device
    })
}

/// Warns, once, if the device did its work with slower kernels than it could.
pub fn warn_of_kernels() {
    static TOLD: Once = Once::new();
    if let Some(problem) = kernel_problem() {
        TOLD.call_once(|| note!("warning: {problem}"));
    }
}
