//! The device of a command.

use std::fmt::Display;

use longcat_runtime::{DeviceSpec, best_device};

use crate::note;

/// The device asked for, or the best there is, which is then named on stderr.
pub fn device_or_best<D: From<DeviceSpec> + Display>(asked: Option<D>) -> D {
    asked.unwrap_or_else(|| {
        let device = D::from(best_device());
        note!("running on {device}; --device chooses another");
        device
    })
}
