//! What the driver says of a CUDA device.

use cudarc::driver::result::{device, init, mem_get_info, primary_ctx};

/// Memory of a CUDA device in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaMemory {
    /// All of it.
    pub total: u64,
    /// What any process has taken, pools included that hold memory for later use.
    pub taken: u64,
}

/// Memory of a CUDA device; `None` where there is no such device.
///
/// # Panics
/// Without a CUDA driver on the machine: ask the backend for its device count first.
pub fn cuda_memory(index: usize) -> Option<CudaMemory> {
    init().ok()?;
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
