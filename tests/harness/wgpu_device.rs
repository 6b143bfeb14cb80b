//! A wgpu device that a test sets up by itself.

use burn_wgpu::graphics::{AutoGraphicsApi, GraphicsApi};
use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuSetup, init_device};
use wgpu::{
    DeviceDescriptor, ExperimentalFeatures, Features, Instance, InstanceDescriptor, Limits,
    MemoryHints, PowerPreference, RequestAdapterOptions, Trace,
};

/// A device of its own and what it was made of, whose tensors have at most so many bytes if a number is given.
pub fn own_wgpu_device(most_bytes: Option<u64>) -> (WgpuDevice, WgpuSetup) {
    let backend = AutoGraphicsApi::backend();
    let instance = Instance::new(InstanceDescriptor {
        backends: backend.into(),
        ..InstanceDescriptor::new_without_display_handle()
    });
    let adapter = burn::tensor::try_read_sync(instance.request_adapter(&RequestAdapterOptions {
        power_preference: PowerPreference::HighPerformance,
        ..RequestAdapterOptions::default()
    }));
    let adapter = adapter.unwrap().unwrap();
    let features = adapter.features();
    let limits = adapter.limits();
    let asked = adapter.request_device(&DeviceDescriptor {
        label: None,
        required_features: features.difference(Features::MAPPABLE_PRIMARY_BUFFERS),
        required_limits: Limits {
            max_storage_buffer_binding_size: most_bytes
                .unwrap_or(limits.max_storage_buffer_binding_size),
            ..limits
        },
        memory_hints: MemoryHints::MemoryUsage,
        trace: Trace::Off,
        // SAFETY: as cubecl asks for its devices.
        experimental_features: unsafe { ExperimentalFeatures::enabled() },
    });
    let (device, queue) = burn::tensor::try_read_sync(asked).unwrap().unwrap();
    let setup = WgpuSetup {
        instance,
        adapter,
        device,
        queue,
        backend,
    };
    (init_device(setup.clone(), RuntimeOptions::default()), setup)
}
