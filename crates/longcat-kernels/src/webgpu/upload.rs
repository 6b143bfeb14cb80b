//! Uploads to wgpu devices.

use std::any::Any;

use burn::tensor::DType;
use burn_backend::Shape;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use burn_wgpu::{WgpuDevice, WgpuRuntime};
use cubecl::Runtime;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::ComputeServer;
use cubecl::stream_id::StreamId;

use super::staging_of;

/// What owns a device in cubecl, on a thread of its own.
type Server = <WgpuRuntime as Runtime>::Server;

/// Below this, cubecl's own copies are as quick.
const LEAST_BYTES: usize = 256 << 10;

/// A row of `bytes` on `device`; `None` if it is not a wgpu device or cannot be served here.
pub(crate) fn try_upload<R: CubeRuntime>(
    bytes: &[u8],
    dtype: DType,
    device: &R::Device,
) -> Option<CubeTensor<R>> {
    let wgpu = (device as &dyn Any).downcast_ref::<WgpuDevice>()?;
    // wgpu copies words.
    if bytes.len() < LEAST_BYTES || !bytes.len().is_multiple_of(4) {
        return None;
    }
    let staging = staging_of(wgpu)?;
    let client = R::client(device);
    let handle = client.empty(bytes.len());
    let (binding, stream) = (handle.clone().binding(), StreamId::current());
    // Asking for the buffer also submits what was queued before, and with it the last use of its memory. What
    // fails here fails in cubecl's own upload, too, where faults of devices are found.
    let resource = DeviceHandle::<Server>::new(wgpu.to_id())
        .submit_blocking(move |server| server.get_resource(binding, stream))
        .ok()?
        .ok()?;
    staging.send(resource.resource(), bytes)?;
    let shape = Shape::new([bytes.len() / dtype.size()]);
    let device = device.clone();
    Some(CubeTensor::new_contiguous(
        client, device, shape, handle, dtype,
    ))
}
