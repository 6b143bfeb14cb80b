//! The wgpu adapters of this machine.

use burn_wgpu::WgpuDevice;
use burn_wgpu::graphics::{AutoGraphicsApi, GraphicsApi};
use wgpu::{DeviceType, Instance, InstanceDescriptor};

use crate::RuntimeError;

/// The devices of the backend's graphics interface in the order of their kind: discrete, integrated,
/// virtual, software (of which there is one).
///
/// wgpu is asked itself: cubecl counts devices by opening one, and panics where there is none.
pub(crate) fn wgpu_devices() -> Vec<WgpuDevice> {
    let api = AutoGraphicsApi::backend();
    let instance = Instance::new(InstanceDescriptor {
        backends: api.into(),
        ..InstanceDescriptor::new_without_display_handle()
    });
    // At once on every platform but the web.
    let adapters = burn::tensor::try_read_sync(instance.enumerate_adapters(api.into()));
    let kinds: Vec<DeviceType> = adapters
        .unwrap_or_default()
        .iter()
        .map(|adapter| adapter.get_info().device_type)
        .collect();
    let of = |kind: DeviceType| 0..kinds.iter().filter(|k| **k == kind).count();
    let mut list: Vec<_> = of(DeviceType::DiscreteGpu)
        .map(WgpuDevice::DiscreteGpu)
        .collect();
    list.extend(of(DeviceType::IntegratedGpu).map(WgpuDevice::IntegratedGpu));
    list.extend(of(DeviceType::VirtualGpu).map(WgpuDevice::VirtualGpu));
    list.extend(of(DeviceType::Cpu).take(1).map(|_| WgpuDevice::Cpu));
    list
}

/// The device of this index, or the best one, opened.
pub(crate) fn wgpu_device(index: Option<usize>) -> Result<WgpuDevice, RuntimeError> {
    let list = wgpu_devices();
    let found = list.get(index.unwrap_or(0)).cloned();
    let device = found.ok_or(RuntimeError::NoWgpuDevice { found: list.len() })?;
    longcat_kernels::open_wgpu_device(&device);
    Ok(device)
}
