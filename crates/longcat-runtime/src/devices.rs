//! The devices of this machine.

#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
use burn::tensor::DType;
#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
use longcat_kernels::KernelBackend;

use crate::DeviceSpec;

/// What is known of a usable device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// As `--device` takes it.
    pub device: String,
    /// Name of the backend.
    pub backend: String,
    /// Memory in bytes, where the platform tells.
    pub memory: Option<u64>,
    /// Dtypes that models can use there.
    pub dtypes: Vec<String>,
}

/// The best device of this build and machine: a CUDA device before a GPU through wgpu, before the
/// processor. Adapters in software come last.
///
/// A build without GPU backends asks no driver.
pub fn best_device() -> DeviceSpec {
    #[cfg(feature = "cuda")]
    if longcat_kernels::cuda_device_count() > 0 {
        return DeviceSpec::Cuda(0);
    }
    #[cfg(feature = "wgpu")]
    {
        let first = crate::adapters::wgpu_devices().into_iter().next();
        if first.is_some_and(|device| device != burn_wgpu::WgpuDevice::Cpu) {
            return DeviceSpec::Wgpu(None);
        }
    }
    match (cfg!(feature = "cpu"), cfg!(feature = "wgpu")) {
        (true, _) => DeviceSpec::Cpu,
        (false, true) => DeviceSpec::Wgpu(None),
        (false, false) => DeviceSpec::Cuda(0),
    }
}

/// The device that a rank takes of the kind asked for, or of the best one: of several GPUs the one of its
/// number among the ranks of this host. A rank that sees one GPU takes that. `cuda:1` and those after it are
/// taken as they are.
pub fn device_of_rank(asked: Option<DeviceSpec>, local_rank: usize) -> DeviceSpec {
    let device = asked.unwrap_or_else(best_device);
    #[cfg(feature = "cuda")]
    if let DeviceSpec::Cuda(0) = device {
        let several = longcat_kernels::cuda_device_count() > 1;
        return DeviceSpec::Cuda(if several { local_rank } else { 0 });
    }
    let _ = local_rank;
    device
}

/// The usable devices of all compiled backends.
pub fn devices() -> Vec<DeviceInfo> {
    #[cfg(feature = "cpu")]
    let cpu = Some(describe::<burn_flex::Flex>(
        DeviceSpec::Cpu,
        &burn_flex::FlexDevice,
        host_memory(),
    ));
    #[cfg(not(feature = "cpu"))]
    let cpu = None;
    #[allow(unused_mut, reason = "only the GPU features add to it")]
    let mut list = Vec::from_iter(cpu);
    #[cfg(feature = "wgpu")]
    for (index, device) in crate::adapters::wgpu_devices().iter().enumerate() {
        longcat_kernels::open_wgpu_device(device);
        list.push(describe::<burn_wgpu::Wgpu>(
            DeviceSpec::Wgpu(Some(index)),
            device,
            None,
        ));
    }
    #[cfg(feature = "cuda")]
    for index in 0..longcat_kernels::cuda_device_count() {
        if longcat_kernels::cuda_device_starts(index) {
            list.push(describe::<burn_cuda::Cuda>(
                DeviceSpec::Cuda(index),
                &burn_cuda::CudaDevice::new(index),
                longcat_kernels::cuda_memory(index).map(|memory| memory.total),
            ));
        }
    }
    list
}

#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
fn describe<B: KernelBackend>(
    spec: DeviceSpec,
    device: &B::Device,
    memory: Option<u64>,
) -> DeviceInfo {
    let dtypes = [
        (DType::F32, "f32"),
        (DType::F16, "f16"),
        (DType::BF16, "bf16"),
    ];
    DeviceInfo {
        device: spec.to_string(),
        backend: B::name(device),
        memory,
        dtypes: dtypes
            .iter()
            .filter(|(dtype, _)| B::supports_dtype(device, *dtype))
            .map(|(_, name)| (*name).to_string())
            .collect(),
    }
}

/// Total memory of this machine, from the kernel where it is Linux.
#[cfg(feature = "cpu")]
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_takes_the_device_that_is_named() {
        for device in [
            DeviceSpec::Cuda(1),
            DeviceSpec::Wgpu(Some(2)),
            DeviceSpec::Cpu,
        ] {
            for local_rank in [0, 3] {
                assert_eq!(device_of_rank(Some(device), local_rank), device);
            }
        }
    }
}
