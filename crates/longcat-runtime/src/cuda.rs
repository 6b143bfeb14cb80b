//! What CUDA devices need, and why they do without it; empty answers in builds without `cuda`.

use longcat_kernels::KernelBackend;

use crate::{DeviceSpec, RuntimeError};

/// Switches cuBLASLt for linear layers on CUDA on or off, for the whole process. Without effect in
/// builds without `cuda`.
#[allow(unused_variables)]
pub fn set_cublas_enabled(enabled: bool) {
    #[cfg(feature = "cuda")]
    longcat_kernels::set_cublas_enabled(enabled);
}

/// Why linear layers on CUDA run on Burn's slower kernels though cuBLASLt is switched on, if they
/// do.
pub fn cublas_problem() -> Option<String> {
    #[cfg(feature = "cuda")]
    {
        let status = longcat_kernels::cublas_status();
        if matches!(status, longcat_kernels::CublasStatus::Unavailable(_)) {
            return Some(status.to_string());
        }
    }
    None
}

/// Why convolutions on CUDA do without cuDNN though it is not switched off, if they do.
pub fn cudnn_problem() -> Option<String> {
    #[cfg(feature = "cuda")]
    {
        longcat_kernels::cudnn_problem()
    }
    #[cfg(not(feature = "cuda"))]
    None
}

/// Why kernels on CUDA run slower than they could, as far as that is known by now: they are compiled when they
/// are first needed.
pub fn kernel_problem() -> Option<String> {
    #[cfg(feature = "cuda")]
    {
        longcat_kernels::kernel_problem()
    }
    #[cfg(not(feature = "cuda"))]
    None
}

/// Why CUDA devices that share work do not copy to each other's memory though they should, as far as that is known
/// by now: it is tried when they first exchange something.
pub fn peers_problem() -> Option<String> {
    #[cfg(feature = "cuda")]
    {
        longcat_kernels::peers_problem()
    }
    #[cfg(not(feature = "cuda"))]
    None
}

/// Why CUDA devices cannot share work, if they cannot.
pub(crate) fn nccl_problem() -> Option<String> {
    #[cfg(feature = "cuda")]
    {
        longcat_kernels::nccl_problem()
    }
    #[cfg(not(feature = "cuda"))]
    None
}

/// Whether work can be given to the CUDA device of this index.
pub(crate) fn usable<B: KernelBackend>(
    device: &B::Device,
    index: usize,
) -> Result<(), RuntimeError> {
    // The backend would panic where the driver does not start the device.
    #[cfg(feature = "cuda")]
    let started = longcat_kernels::cuda_device_starts(index);
    #[cfg(not(feature = "cuda"))]
    let started = false;
    if started && B::sync(device).is_ok() {
        return Ok(());
    }
    Err(RuntimeError::NoDevice {
        device: DeviceSpec::Cuda(index),
    })
}
