//! From the name of a device to the backend that runs on it.

use longcat_kernels::KernelBackend;

use crate::{DeviceSpec, RuntimeError};

/// Work that runs on whatever backend a device needs.
pub trait DeviceTask {
    /// What it gives back.
    type Output;

    /// Runs it.
    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output;
}

/// Runs a task on the backend of `spec`.
///
/// The task is compiled for every backend of this build, so a program that calls models in it compiles
/// them again. What this crate offers for a device ([`open_pipeline`](crate::open_pipeline),
/// [`train_lora`](crate::train_lora)) is compiled already.
///
/// # Errors
/// [`RuntimeError::NotCompiled`] when the backend is not in this build, [`RuntimeError::NoDevice`] and
/// [`RuntimeError::NoWgpuDevice`] when the device is not there.
#[allow(unused_variables)]
pub fn on_device<T: DeviceTask>(spec: DeviceSpec, task: T) -> Result<T::Output, RuntimeError> {
    match spec {
        #[cfg(feature = "cpu")]
        DeviceSpec::Cpu => Ok(task.run::<burn_flex::Flex>(burn_flex::FlexDevice)),
        #[cfg(not(feature = "cpu"))]
        DeviceSpec::Cpu => Err(RuntimeError::NotCompiled { feature: "cpu" }),
        #[cfg(feature = "wgpu")]
        DeviceSpec::Wgpu(index) => {
            longcat_kernels::watch_device_threads();
            let device = crate::adapters::wgpu_device(index)?;
            Ok(task.run::<burn_wgpu::Wgpu>(device))
        }
        #[cfg(not(feature = "wgpu"))]
        DeviceSpec::Wgpu(_) => Err(RuntimeError::NotCompiled { feature: "wgpu" }),
        #[cfg(feature = "cuda")]
        DeviceSpec::Cuda(index) => {
            longcat_kernels::watch_device_threads();
            let device = burn_cuda::CudaDevice::new(index);
            crate::cuda::usable::<burn_cuda::Cuda>(&device, index)?;
            Ok(task.run::<burn_cuda::Cuda>(device))
        }
        #[cfg(not(feature = "cuda"))]
        DeviceSpec::Cuda(_) => Err(RuntimeError::NotCompiled { feature: "cuda" }),
    }
}
