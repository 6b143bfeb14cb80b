//! Uploads to CUDA devices from page-locked memory, by the threads that ask for them and idle ones.
//!
//! cubecl 0.10 copies what it uploads on the caller's thread and sends the copy from pageable memory,
//! which the driver copies once more, on the one thread that owns the device. Here every thread
//! writes to a page-locked buffer while the device still reads from its other one. Large rows go by shares, which
//! threads without a row of their own take.

use std::any::Any;
use std::collections::BTreeMap;
use std::ptr;
use std::sync::{Mutex, OnceLock};

use burn::tensor::DType;
use burn_backend::Shape;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaDevice;
use cubecl::server::{Binding, ComputeServer};
use cubecl::stream_id::StreamId;
use cudarc::driver::{result as driver, sys};
use rayon::prelude::*;

use crate::cuda::stream::{OrderedStream, device_thread, lock, say};

/// A page-locked buffer: large enough to hide the cost of a call, small enough to stay in the cache.
pub(super) const BUFFER_BYTES: usize = 4 << 20;
/// What a thread sends of a larger row, so that the threads share the largest matrices, too.
const SHARE_BYTES: usize = 4 * BUFFER_BYTES;
/// Below this, cubecl's own copy is as quick.
const LEAST_BYTES: usize = 256 << 10;

/// What one thread uploads with at a time.
struct Lane {
    stream: OrderedStream,
    buffers: [Buffer; 2],
}

/// Page-locked memory, and the event after the last copy from it.
pub(super) struct Buffer {
    address: *mut u8,
    sent: sys::CUevent,
}

// SAFETY: page-locked memory and events belong to the process; a lane is used by one thread at a time.
unsafe impl Send for Buffer {}

/// Lanes that no thread uses at the moment, by device index: as many as ever uploaded at once.
static LANES: Mutex<BTreeMap<usize, Vec<Lane>>> = Mutex::new(BTreeMap::new());
/// Set if a device refused a lane or a copy; cubecl's own uploads serve then.
static REFUSED: OnceLock<()> = OnceLock::new();

/// A row of `bytes` on `device`; `None` if it is not a CUDA device or cannot be served here.
pub(crate) fn try_upload<R: CubeRuntime>(
    bytes: &[u8],
    dtype: DType,
    device: &R::Device,
) -> Option<CubeTensor<R>> {
    let index = (device as &dyn Any).downcast_ref::<CudaDevice>()?.index;
    if bytes.len() < LEAST_BYTES || REFUSED.get().is_some() {
        return None;
    }
    let client = R::client(device);
    let handle = client.empty(bytes.len());
    let binding = handle.clone().binding();
    if send(index, binding, bytes).is_err() {
        // Slower, and the same; a device that is out of order tells so by itself.
        let _ = REFUSED.set(());
        return None;
    }
    let shape = Shape::new([bytes.len() / dtype.size()]);
    let device = device.clone();
    Some(CubeTensor::new_contiguous(
        client, device, shape, handle, dtype,
    ))
}

/// Queues the copy of `bytes` into a buffer of device `index`, behind whatever was queued before and
/// before whatever is queued later. The bytes are read when this returns.
fn send(index: usize, binding: Binding, bytes: &[u8]) -> Result<(), String> {
    let stream = StreamId::current();
    let address = device_thread(index)
        .submit_blocking(move |server| {
            let resource = server.get_resource(binding, stream);
            resource.map(|resource| resource.resource().ptr)
        })
        .map_err(|err| say("device thread", err))?
        .map_err(|err| say("buffer", err))?;
    let shares = bytes.par_chunks(SHARE_BYTES).enumerate();
    shares.try_for_each(|(i, share)| {
        let free = lock(&LANES).get_mut(&index).and_then(Vec::pop);
        let lane = match free {
            Some(lane) => lane,
            None => Lane::open(index)?,
        };
        // A lane that failed is not used again.
        lane.send(address + (i * SHARE_BYTES) as u64, share)?;
        lock(&LANES).entry(index).or_default().push(lane);
        Ok(())
    })
}

impl Lane {
    fn open(index: usize) -> Result<Self, String> {
        Ok(Self {
            stream: OrderedStream::open(index)?,
            buffers: [Buffer::new()?, Buffer::new()?],
        })
    }

    fn send(&self, address: u64, bytes: &[u8]) -> Result<(), String> {
        self.stream.enter()?;
        self.stream.run(|stream| {
            let parts = bytes.chunks(BUFFER_BYTES).enumerate();
            for (i, part) in parts {
                let buffer = &self.buffers[i % 2];
                let offset = (i * BUFFER_BYTES) as u64;
                buffer.send(address + offset, part, stream)?;
            }
            Ok(())
        })
    }
}

impl Buffer {
    /// Page-locked memory in the current context.
    pub(super) fn new() -> Result<Self, String> {
        let sent = driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|err| say("event", err))?;
        // SAFETY: a plain allocation, kept for the life of the process.
        let address = unsafe { driver::malloc_host(BUFFER_BYTES, 0) }
            .map_err(|err| say("page-locked memory", err))?;
        Ok(Self {
            address: address.cast(),
            sent,
        })
    }

    /// Queues a copy of `part`, of at most [`BUFFER_BYTES`], to a device address.
    pub(super) fn send(&self, to: u64, part: &[u8], stream: sys::CUstream) -> Result<(), String> {
        // SAFETY: the event was made in `new`; one that was never recorded counts as past.
        unsafe { driver::event::synchronize(self.sent) }
            .map_err(|err| say("cuEventSynchronize", err))?;
        // SAFETY: the buffer holds `BUFFER_BYTES`, and the copy that last read it is done.
        let held = unsafe {
            ptr::copy_nonoverlapping(part.as_ptr(), self.address, part.len());
            std::slice::from_raw_parts(self.address, part.len())
        };
        // SAFETY: the buffer stays as it is until `sent` is past; the device's buffer has room for all
        // parts and lives until what is queued before its release is done.
        // Event and stream belong to the current context.
        unsafe {
            driver::memcpy_htod_async(to, held, stream).map_err(|err| say("copy", err))?;
            driver::event::record(self.sent, stream).map_err(|err| say("cuEventRecord", err))
        }
    }
}
