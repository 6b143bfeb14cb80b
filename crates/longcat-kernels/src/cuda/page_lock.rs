//! Host memory that CUDA devices copy from by themselves.
//!
//! A copy from memory whose pages are locked runs at the speed of the bus and beside the device's
//! work: 54 GB/s on an H200, where mapped pages reach 8 GB/s and hold the caller up. Locking a mapped
//! file takes 39 ms a GiB once its pages are in memory, and no memory of its own.

use std::ffi::c_void;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cudarc::driver::{result as driver, sys};

use crate::host::HostBytes;

/// Of all contexts, as other devices copy from the same memory.
const PORTABLE: u32 = 1;
/// A mapped file need not be writable.
const READ_ONLY: u32 = 8;
/// What is left to everything else on the host.
const MARGIN_BYTES: u64 = 2 << 30;

/// Bytes that are locked. The system still counts those of mapped files as free.
static LOCKED: AtomicU64 = AtomicU64::new(0);

/// Pages that stay locked as long as it lives.
#[derive(Debug)]
pub(crate) struct PageLock {
    address: usize,
    bytes: u64,
    /// The context that locked them.
    context: usize,
}

impl PageLock {
    /// Locks the pages of `bytes`, which must outlive the lock, in the current context.
    fn new(bytes: &[u8]) -> Option<Self> {
        if std::env::var_os("LONGCAT_NO_PAGE_LOCK").is_some() {
            return None;
        }
        let size = bytes.len() as u64;
        let room = available().map(|room| room.saturating_sub(LOCKED.load(Relaxed)));
        if size == 0 || room.is_some_and(|room| room < size) {
            return None;
        }
        let context = driver::ctx::get_current().ok()??;
        let address = bytes.as_ptr() as *mut c_void;
        // SAFETY: memory of this process, which the caller keeps; it is only read.
        let lock = |flags| unsafe { sys::cuMemHostRegister_v2(address, bytes.len(), flags) };
        lock(PORTABLE | READ_ONLY)
            .result()
            .or_else(|_| lock(PORTABLE).result())
            .ok()?;
        LOCKED.fetch_add(size, Relaxed);
        Some(Self {
            address: address as usize,
            bytes: size,
            context: context as usize,
        })
    }
}

impl Drop for PageLock {
    fn drop(&mut self) {
        // SAFETY: a context that is kept for the life of the process, and memory locked in `new`.
        unsafe {
            let _ = driver::ctx::set_current(self.context as sys::CUcontext);
            // Copies from it may be under way.
            let _ = driver::ctx::synchronize();
            let _ = sys::cuMemHostUnregister(self.address as *mut c_void).result();
        }
        LOCKED.fetch_sub(self.bytes, Relaxed);
    }
}

/// Whether devices copy from the memory of `bytes` by themselves; locks all of it the first time. A
/// context must be current.
pub(crate) fn is_locked(bytes: &HostBytes) -> bool {
    let memory = bytes.memory();
    let lock = memory.lock.get_or_init(|| PageLock::new(memory.bytes()));
    lock.is_some()
}

/// Bytes of host memory that may be locked, where the system tells. Pages of files that are in memory
/// count, as they could be given up.
fn available() -> Option<u64> {
    let field = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let host = field("/proc/meminfo", "MemAvailable:")? * 1024;
    // A container may have less.
    let limit = field("/sys/fs/cgroup/memory.max", "");
    let own = field("/sys/fs/cgroup/memory.stat", "anon ");
    let room = match (limit, own) {
        (Some(limit), Some(own)) => host.min(limit.saturating_sub(own)),
        _ => host,
    };
    Some(room.saturating_sub(MARGIN_BYTES))
}
