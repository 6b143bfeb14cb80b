//! Finding cuBLASLt at run time.

use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::cublaslt::sys;

/// Names of the library, the newest major version first.
const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];

/// The library's version (major·10000 + minor·100 + patch), or why there is none.
///
/// The loader's own search path comes first; then the `lib64` folders of the CUDA installations
/// that cubecl would use for NVRTC. The outcome is found once per process.
pub(super) fn version() -> Result<usize, String> {
    static VERSION: OnceLock<Result<usize, String>> = OnceLock::new();
    VERSION.get_or_init(open).clone()
}

fn open() -> Result<usize, String> {
    // SAFETY: loads a shared library by name; its initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        preload();
    }
    // SAFETY: as above.
    if !unsafe { sys::is_culib_present() } {
        return Err(format!(
            "no {} in the library search path nor in {}; set LD_LIBRARY_PATH or CUDA_PATH",
            NAMES[0],
            folders()
                .iter()
                .map(|folder| folder.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        ));
    }
    // SAFETY: the library is present, and the function takes nothing.
    Ok(unsafe { sys::cublasLtGetVersion() })
}

/// Opens the library by its full path and keeps it: a later request for the bare name is then
/// answered with it, since the loader compares names of libraries already open.
fn preload() {
    for folder in folders() {
        for name in NAMES {
            // SAFETY: as in `open`.
            if let Ok(library) = unsafe { libloading::Library::new(folder.join(name)) } {
                std::mem::forget(library);
                return;
            }
        }
    }
}

fn folders() -> Vec<PathBuf> {
    std::env::var_os("CUDA_PATH")
        .map(PathBuf::from)
        .into_iter()
        .chain(["/usr/local/cuda".into(), "/opt/cuda".into()])
        .map(|root| root.join("lib64"))
        .collect()
}
