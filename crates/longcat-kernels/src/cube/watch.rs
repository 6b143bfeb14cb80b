//! What fails on the threads of cubecl's devices.
//!
//! cubecl 0.10 catches every panic of a device's thread, logs it as a warning and runs the next task;
//! whoever asked for the work does not hear of it. A panic hook is the one place that sees them all.

use std::collections::BTreeMap;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use cubecl::device::DeviceId;

use crate::DeviceFault;
use crate::faults::{is_guarded, words_of};

/// The first fault of each device, by kind and index. A device that failed once is not trusted again:
/// what it holds since then is not known.
static FAULTS: Mutex<BTreeMap<(u16, u16), DeviceFault>> = Mutex::new(BTreeMap::new());

/// Lets faults of GPU devices be found: panics on the threads that cubecl runs for them are recorded
/// and, after the first of a device, not shown. Those of other threads reach the hook that was set
/// before.
///
/// Call it before anything runs on a device, and after hooks of your own are set; later calls change
/// nothing. Without it, faults are found by what devices answer, which is less.
pub fn watch_device_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let former = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let shown = match thread::current().name().and_then(device_of) {
                Some(device) => record(device, DeviceFault::new(words_of(info.payload()))),
                // Reading from a device that failed panics, too; the error of the guard says why.
                None => !(is_guarded() && has_any()),
            };
            if shown {
                former(info);
            }
        }));
    });
}

/// The device whose thread has this name: `DSU-0-1` and `DSD-0-1` serve the one of kind 0, index 1.
fn device_of(thread: &str) -> Option<(u16, u16)> {
    let rest = thread
        .strip_prefix("DSU-")
        .or_else(|| thread.strip_prefix("DSD-"))?;
    let (kind, index) = rest.split_once('-')?;
    Some((kind.parse().ok()?, index.parse().ok()?))
}

/// Keeps the first fault of a device; whether it is the first.
fn record(device: (u16, u16), fault: DeviceFault) -> bool {
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let first = !faults.contains_key(&device);
    faults.entry(device).or_insert(fault);
    first
}

fn has_any() -> bool {
    let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    !faults.is_empty()
}

/// Keeps a fault of a device that no panic told of.
pub(crate) fn keep(device: DeviceId, fault: DeviceFault) {
    record((device.type_id, device.index_id), fault);
}

/// The first fault of a device.
pub(crate) fn first(device: DeviceId) -> Option<DeviceFault> {
    let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    faults.get(&(device.type_id, device.index_id)).cloned()
}

#[cfg(test)]
mod tests {
    use super::device_of;

    #[test]
    fn threads_of_devices_are_known_by_name() {
        assert_eq!(device_of("DSU-0-1"), Some((0, 1)));
        assert_eq!(device_of("DSD-5-12"), Some((5, 12)));
        for other in ["main", "DS", "DSU-", "DSX-0-1", "DSD-0", "DSD-a-b"] {
            assert_eq!(device_of(other), None, "{other}");
        }
    }
}
