//! How the process keeps memory.

/// Lets the process keep the memory of freed tensors for the next ones, where the C library is
/// glibc. By default it gives each large one back to the system, which then clears its pages again
/// for the next: about a fifth of a training step on the CPU, and a third of encoding a clip.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger tensors, of which there are few, still go back.
        const LARGEST_KEPT: libc::c_int = 256 << 20;
        // SAFETY: plain settings; they are safe to make at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_KEPT);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }
}
