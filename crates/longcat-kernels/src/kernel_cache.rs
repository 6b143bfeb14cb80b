//! Where compiled kernels and tuning results are kept between runs.

use std::path::Path;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Keeps compiled kernels and tuning results below `folder`, and tunes with little effort, where
/// the user's own `cubecl.toml` or `burn.toml` says nothing else about the cache.
///
/// Kernels are found again by what they are called, not by their code: name a folder that no other
/// version of the program uses. Call it before anything runs on a device; later calls change
/// nothing.
pub fn keep_compiled_kernels(folder: &Path) {
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
    *stored = Some(config.into());
}
