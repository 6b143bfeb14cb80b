//! What the driver says of a CUDA device.

use cudarc::driver::result::{device, init};

/// Total memory of a CUDA device in bytes; `None` where there is no such device.
///
/// # Panics
/// Without a CUDA driver on the machine: ask the backend for its device count first.
pub fn cuda_memory(index: usize) -> Option<u64> {
    init().ok()?;
    let handle = device::get(i32::try_from(index).ok()?).ok()?;
    // SAFETY: the handle comes from the driver, which was initialised above.
    let bytes = unsafe { device::total_mem(handle) }.ok()?;
    u64::try_from(bytes).ok()
}
