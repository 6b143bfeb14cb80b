//! Devices, chosen at run time.

use std::str::FromStr;

use burn::tensor::DType;
use longcat_kernels::KernelBackend;

use crate::VideoError;

/// A device as `--device` names it: `cpu`, `wgpu[:i]` or `cuda[:i]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// The processor.
    #[default]
    Cpu,
    /// A GPU through Vulkan, Metal or DirectX; the best one without an index.
    Wgpu(Option<usize>),
    /// An NVIDIA GPU.
    Cuda(usize),
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => match index.parse() {
                Ok(index) => (kind, Some(index)),
                Err(_) => return Err(format!("{index:?} is not a device index")),
            },
            None => (text, None),
        };
        match (kind, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("cpu", Some(_)) => Err("cpu takes no index".into()),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            _ => Err(format!(
                "unknown device {kind:?}; use cpu, wgpu[:i] or cuda[:i]"
            )),
        }
    }
}

impl std::fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Wgpu(None) => write!(f, "wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceSpec {
    /// The dtype that large models take on this kind of device.
    pub fn default_dtype(self) -> DType {
        match self {
            Self::Cpu | Self::Wgpu(_) => DType::F32,
            Self::Cuda(_) => DType::BF16,
        }
    }
}

/// Work that runs on whatever backend a device needs.
pub trait DeviceTask {
    /// What it gives back.
    type Output;

    /// Runs it.
    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output;
}

/// Runs a task on the backend of `spec`.
///
/// # Errors
/// [`VideoError::Device`] when the backend is not compiled in or the device is not there.
#[allow(unused_variables)]
pub fn on_device<T: DeviceTask>(spec: DeviceSpec, task: T) -> Result<T::Output, VideoError> {
    match spec {
        #[cfg(feature = "cpu")]
        DeviceSpec::Cpu => Ok(task.run::<burn_flex::Flex>(burn_flex::FlexDevice)),
        #[cfg(not(feature = "cpu"))]
        DeviceSpec::Cpu => Err(absent("cpu")),
        #[cfg(feature = "wgpu")]
        DeviceSpec::Wgpu(index) => {
            let device = wgpu_device(index)?;
            Ok(task.run::<burn_wgpu::Wgpu>(device))
        }
        #[cfg(not(feature = "wgpu"))]
        DeviceSpec::Wgpu(_) => Err(absent("wgpu")),
        #[cfg(feature = "cuda")]
        DeviceSpec::Cuda(index) => {
            let device = burn_cuda::CudaDevice::new(index);
            usable::<burn_cuda::Cuda>(&device, spec)?;
            Ok(task.run::<burn_cuda::Cuda>(device))
        }
        #[cfg(not(feature = "cuda"))]
        DeviceSpec::Cuda(_) => Err(absent("cuda")),
    }
}

#[cfg(not(all(feature = "cpu", feature = "wgpu", feature = "cuda")))]
fn absent(feature: &str) -> VideoError {
    VideoError::Device(format!(
        "this program was built without {feature}; build it with --features {feature}"
    ))
}

/// Switches cuBLASLt for linear layers on CUDA on or off, for the whole process. Without effect in
/// builds without `cuda`.
#[allow(unused_variables)]
pub fn set_cublas_enabled(enabled: bool) {
    #[cfg(feature = "cuda")]
    longcat_kernels::set_cublas_enabled(enabled);
}

/// Keeps compiled GPU kernels and tuning results below `folder`; see
/// `longcat_kernels::set_up_gpu_runtime`. Without effect in builds without a GPU backend.
#[allow(unused_variables)]
pub fn set_up_gpu_runtime(folder: &std::path::Path) {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    longcat_kernels::set_up_gpu_runtime(folder);
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

/// Why CUDA devices cannot share work, if they cannot.
pub(crate) fn nccl_problem() -> Option<String> {
    #[cfg(feature = "cuda")]
    {
        longcat_kernels::nccl_problem()
    }
    #[cfg(not(feature = "cuda"))]
    None
}

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
    for (index, device) in wgpu_devices().iter().enumerate() {
        list.push(describe::<burn_wgpu::Wgpu>(
            DeviceSpec::Wgpu(Some(index)),
            device,
            None,
        ));
    }
    #[cfg(feature = "cuda")]
    for index in 0..count::<burn_cuda::Cuda>(0) {
        let device = burn_cuda::CudaDevice::new(index);
        list.push(describe::<burn_cuda::Cuda>(
            DeviceSpec::Cuda(index),
            &device,
            longcat_kernels::cuda_memory(index).map(|memory| memory.total),
        ));
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

/// Number of devices of a kind; none when the driver cannot be started.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn count<B: KernelBackend>(type_id: u16) -> usize {
    // Backends panic where the platform has no driver: that is "none" here.
    quietly(|| B::device_count(type_id)).unwrap_or(0)
}

fn quietly<T>(task: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).ok();
    std::panic::set_hook(hook);
    result
}

/// Whether work can be given to a device.
pub(crate) fn usable<B: KernelBackend>(
    device: &B::Device,
    spec: DeviceSpec,
) -> Result<(), VideoError> {
    match quietly(|| B::sync(device)) {
        Some(Ok(())) => Ok(()),
        _ => Err(VideoError::Device(format!(
            "{spec} cannot be used: there is no such device or no driver for it; \
             `longcat devices` lists what is usable"
        ))),
    }
}

/// Adapters in the order of their kind: discrete, integrated, virtual, software.
#[cfg(feature = "wgpu")]
fn wgpu_devices() -> Vec<burn_wgpu::WgpuDevice> {
    use burn_wgpu::WgpuDevice::{Cpu, DiscreteGpu, IntegratedGpu, VirtualGpu};
    let of = |type_id: u16| 0..count::<burn_wgpu::Wgpu>(type_id);
    let mut list: Vec<_> = of(0).map(DiscreteGpu).collect();
    list.extend(of(1).map(IntegratedGpu));
    list.extend(of(2).map(VirtualGpu));
    list.extend(of(3).take(1).map(|_| Cpu));
    list
}

#[cfg(feature = "wgpu")]
fn wgpu_device(index: Option<usize>) -> Result<burn_wgpu::WgpuDevice, VideoError> {
    let list = wgpu_devices();
    let found = list.get(index.unwrap_or(0)).cloned();
    found.ok_or_else(|| {
        VideoError::Device(format!(
            "no such wgpu device: {} found; a Vulkan, Metal or DirectX driver is needed (on Debian, \
             mesa-vulkan-drivers has one in software)",
            list.len()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_mistakes_are_explained() {
        for name in ["cpu", "wgpu", "wgpu:1", "cuda:0", "cuda:3"] {
            assert_eq!(
                name.parse::<DeviceSpec>().map(|d| d.to_string()),
                Ok(name.into())
            );
        }
        assert_eq!("cuda".parse(), Ok(DeviceSpec::Cuda(0)));
        for (name, word) in [("gpu", "gpu"), ("cuda:x", "x"), ("cpu:1", "index")] {
            let error = name.parse::<DeviceSpec>().err();
            assert!(error.is_some_and(|e| e.contains(word)), "{name}");
        }
    }
}
