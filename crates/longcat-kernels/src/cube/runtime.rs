//! How cubecl's runtimes work: where compiled kernels are kept, how memory is taken.

use std::path::Path;

use cubecl::config::cache::CacheConfig;
use cubecl::config::memory::PersistentMemory;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Sets up the GPU runtime of this process.
///
/// - Compiled kernels and tuning results are kept below `folder`, and tuning takes little effort,
///   where the user's own `cubecl.toml` or `burn.toml` says nothing else about the cache. Kernels are
///   found again by what they are called, not by their code: name a folder that no other version of
///   the program uses. Kernels in CUDA C++ are kept there in any case.
/// - In builds for CUDA every size of tensor gets memory of just that size, where those files leave
///   `memory.persistent_memory` as it is. The usual pools of pages of up to a quarter of the device
///   took a third more. Models work on few sizes, and what a phase leaves is given back after it.
///
/// Call it before anything runs on a device; later calls change nothing.
pub fn set_up_gpu_runtime(folder: &Path) {
    let mut stored = CubeClRuntimeConfig::storage().lock();
    if stored.is_some() {
        return;
    }
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if config.compilation.cache.is_none() {
        config.compilation.cache = Some(CacheConfig::File(folder.to_path_buf()));
        config.autotune.cache = CacheConfig::File(folder.to_path_buf());
        if std::env::var_os("CUBECL_AUTOTUNE_LEVEL").is_none() {
            config.autotune.level = cubecl::config::autotune::AutotuneLevel::Minimal;
        }
    }
    if cfg!(feature = "cuda")
        && matches!(config.memory.persistent_memory, PersistentMemory::Enabled)
    {
        config.memory.persistent_memory = PersistentMemory::Enforced;
    }
    #[cfg(feature = "cuda")]
    crate::cuda::program_cache::keep_in(folder);
    *stored = Some(config.into());
}
