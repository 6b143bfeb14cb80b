//! Order around transfers between devices, which cubecl makes through NCCL.

use std::any::Any;

use cubecl::cuda::CudaDevice;
use cudarc::nccl::sys;

use crate::cuda::engines::{Engine, Engines};
use crate::cuda::library::CudaLibrary;
use crate::cuda::stream::OrderedStream;

const LIBRARY: CudaLibrary = CudaLibrary {
    names: &["libnccl.so"],
    present: sys::is_culib_present,
};

static ENGINES: Engines<OrderedStream> =
    Engines::new("ordering transfers between GPUs", "CUDA_LAUNCH_BLOCKING");

impl Engine for OrderedStream {
    fn open(index: usize) -> Result<Self, String> {
        Self::open(index)
    }
}

/// Why tensors cannot go from one CUDA device to another, if they cannot.
pub fn nccl_problem() -> Option<String> {
    let problem = LIBRARY.open().err()?;
    Some(format!("several GPUs need NCCL: {problem}"))
}

/// [`KernelDevice::order_transfers`](crate::KernelDevice::order_transfers); `false` if the driver
/// cannot. Does nothing on devices of other runtimes.
pub(crate) fn order<D: 'static>(device: &D) -> bool {
    let Some(device) = (device as &dyn Any).downcast_ref::<CudaDevice>() else {
        return true;
    };
    if !ENGINES.is_ready(device.index, |_| Some(true), |_| true) {
        return false;
    }
    // Nothing runs between the two events: what is submitted later waits for what came before.
    ENGINES.submit_to(device.index, [], |stream, []| {
        stream.enter()?;
        stream.run(|_| Ok(()))
    });
    true
}
