//! What the driver says of a CUDA device.

use cudarc::driver::result::{device, init, mem_get_info, primary_ctx};
use cudarc::driver::sys::is_culib_present;

use crate::DeviceMemory;

/// Memory of a CUDA device in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaMemory {
    /// All of it.
    pub total: u64,
    /// What any process has taken, pools included that hold memory for later use.
    pub taken: u64,
}

/// Number of CUDA devices; 0 where no driver starts.
pub fn cuda_device_count() -> usize {
    match driver_starts() {
        true => device::get_count().map_or(0, |count| count.max(0) as usize),
        false => 0,
    }
}

/// Whether the driver starts a CUDA device. The device's context stays for the rest of the process,
/// as it does when the backend starts the device.
pub fn cuda_device_starts(index: usize) -> bool {
    if index >= cuda_device_count() {
        return false;
    }
    let handle = i32::try_from(index).map(device::get);
    // SAFETY: the handle comes from the driver, which was initialised above.
    matches!(handle, Ok(Ok(handle)) if unsafe { primary_ctx::retain(handle) }.is_ok())
}

/// cudarc panics at the first call into a driver that is not there.
fn driver_starts() -> bool {
    // SAFETY: loads a shared library by name; its initialisers are NVIDIA's.
    let present = unsafe { is_culib_present() };
    present && init().is_ok()
}

/// Memory of a CUDA device; `None` where there is no such device or no driver.
pub fn cuda_memory(index: usize) -> Option<CudaMemory> {
    if !driver_starts() {
        return None;
    }
    let handle = device::get(i32::try_from(index).ok()?).ok()?;
    // SAFETY: the handle comes from the driver, which was initialised above; the context is the
    // device's primary one, which is retained while it is current here.
    let (free, total) = unsafe {
        let context = primary_ctx::retain(handle).ok()?;
        let previous = cudarc::driver::result::ctx::get_current().ok()?;
        cudarc::driver::result::ctx::set_current(context).ok()?;
        let info = mem_get_info();
        if let Some(previous) = previous {
            cudarc::driver::result::ctx::set_current(previous).ok()?;
        }
        primary_ctx::release(handle).ok()?;
        info.ok()?
    };
    Some(CudaMemory {
        total: total as u64,
        taken: (total - free) as u64,
    })
}

/// NVIDIA's name of a CUDA device.
pub(crate) fn device_model(index: usize) -> Option<String> {
    if !driver_starts() {
        return None;
    }
    let handle = device::get(i32::try_from(index).ok()?).ok()?;
    device::get_name(handle).ok()
}

/// Bytes of a device that are not cubecl's tensors: the context with compiled kernels, and workspaces of
/// cuBLASLt. On an H200 the context alone took 0.55 GB; with this much, plans for the released model were
/// 4 to 7 % above what was seen.
const CONTEXT: u64 = 800_000_000;

/// What is known of the memory of a CUDA device.
pub(crate) fn device_memory(index: usize) -> DeviceMemory {
    DeviceMemory {
        free: cuda_memory(index).map(|memory| memory.total - memory.taken),
        context: CONTEXT,
    }
}
