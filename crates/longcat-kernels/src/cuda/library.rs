//! Finding NVIDIA's libraries at run time.

use std::path::PathBuf;

/// A library that cudarc opens by its bare name at the first call into it.
pub(crate) struct CudaLibrary {
    /// Its file names, the newest major version first.
    pub(crate) names: &'static [&'static str],
    /// cudarc's test whether one of the names that it knows can be opened.
    pub(crate) present: unsafe fn() -> bool,
}

impl CudaLibrary {
    /// Makes the library known to the loader, or tells why it is not to be had.
    ///
    /// The loader's own search path comes first; then the `lib64` folders of the CUDA installations
    /// that cubecl would use for NVRTC.
    pub(crate) fn open(&self) -> Result<(), String> {
        // SAFETY: loads a shared library by name; its initialisers are NVIDIA's.
        let present = || unsafe { (self.present)() };
        if present() {
            return Ok(());
        }
        self.preload();
        if present() {
            return Ok(());
        }
        let folders: Vec<_> = folders()
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        Err(format!(
            "no {} in the library search path nor in {}; set LD_LIBRARY_PATH or CUDA_PATH",
            self.names[0],
            folders.join(", "),
        ))
    }

    /// Opens the library by its full path and keeps it: a later request for the bare name is then
    /// answered with it, since the loader compares names of libraries already open.
    fn preload(&self) {
        for folder in folders() {
            for name in self.names {
                // SAFETY: as in `open`.
                if let Ok(library) = unsafe { libloading::Library::new(folder.join(name)) } {
                    std::mem::forget(library);
                    return;
                }
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
