//! Compiled GPU kernels on disk.

/// Keeps compiled GPU kernels in the user's cache folder, so that only the first run compiles and
/// tunes them; see `longcat_kernels::set_up_gpu_runtime`.
///
/// Call it before anything runs on a device. Without effect in builds without a GPU backend.
pub fn set_up_gpu_runtime() {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        // Kernels are found again by name: those of another build of this program must not be found.
        let build = std::env::current_exe()
            .and_then(|program| program.metadata()?.modified())
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        if let (Some(cache), Some(build)) = (dirs::cache_dir(), build) {
            let folder = format!("longcat/{}", build.as_secs());
            longcat_kernels::set_up_gpu_runtime(&cache.join(folder));
        }
    }
}
