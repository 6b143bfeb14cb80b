//! The device of a command.

use std::fmt::Display;
use std::sync::Once;

use longcat_runtime::{DeviceSpec, best_device, kernel_problem, peers_problem};

use crate::note;

/// The device asked for, or the best there is, which is then named on stderr.
pub fn device_or_best<D: From<DeviceSpec> + Display>(asked: Option<D>) -> D {
    asked.unwrap_or_else(|| {
        let device = D::from(best_device());
        note!("running on {device}; --device chooses another");
        device
    })
}

/// Warns, once of each, of what devices did in a slower way than they could.
pub fn warn_of_slower_ways() {
    static TOLD: [Once; 2] = [const { Once::new() }; 2];
    for (told, problem) in TOLD.iter().zip([kernel_problem(), peers_problem()]) {
        if let Some(problem) = problem {
            told.call_once(|| note!("warning: {problem}"));
        }
    }
}
