//! Weights copied to CUDA devices ahead of their use, beside the work that is queued.
//!
//! A copy waits for the work that was queued before it, which may still use the memory that it goes
//! to: the buffers come from cubecl's pools, which hand out again what is no longer referred to,
//! whether or not the device is done with it. Work that is queued after the copy does not wait for it,
//! until the copy is awaited.

use std::any::Any;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use burn_backend::{DType, Shape};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::Runtime;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cudarc::driver::result as driver;

use crate::cuda::cast;
use crate::cuda::engines::{Engine, Engines};
use crate::cuda::page_lock;
use crate::cuda::staging::{self, Job};
use crate::cuda::stream::{OrderedStream, device_thread, lock, say};
use crate::cuda::theirs;
use crate::{HostBytes, HostRow, UploadTicket};

type Cuda = CubeTensor<CudaRuntime>;

static ENGINES: Engines<Copies> = Engines::new("copying weights ahead", "LONGCAT_NO_PREFETCH");

/// The copies to one device.
struct Copies {
    stream: OrderedStream,
    /// Takes what cannot be copied from where it lies.
    staging: Sender<Job>,
}

impl Engine for Copies {
    fn open(index: usize) -> Result<Self, String> {
        if std::env::var_os("LONGCAT_NO_PREFETCH").is_some() {
            return Err("LONGCAT_NO_PREFETCH is set".into());
        }
        let stream = OrderedStream::open(index)?;
        let staging = staging::start(stream.destination())?;
        Ok(Self { stream, staging })
    }
}

impl Copies {
    /// Queues the copy of `bytes` to a device address.
    fn send(&self, address: u64, bytes: HostBytes, sending: Sending) -> Result<(), String> {
        let locked = page_lock::is_locked(&bytes);
        self.stream.run_aside(|stream| match locked {
            // SAFETY: the buffer has room for the bytes and lives until they were awaited; the bytes
            // are kept by their lock, which waits for copies before it ends.
            true => unsafe { driver::memcpy_htod_async(address, &bytes[..], stream) }
                .map_err(|err| say("copy", err)),
            false => Ok(()),
        })?;
        if locked {
            drop(sending);
            return Ok(());
        }
        let job = Job {
            address,
            bytes,
            sending,
        };
        self.staging
            .send(job)
            .map_err(|_| "the thread that reads weights ended".into())
    }
}

/// Copies that were begun together.
struct Arrival {
    index: usize,
    state: Arc<State>,
    /// Their destinations, which nobody else may get before the copies are done.
    buffers: Mutex<Vec<Cuda>>,
}

#[derive(Default)]
struct State {
    copies: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// Copies that are not queued yet.
    left: usize,
    failure: Option<String>,
}

/// One copy that is not queued yet; ends when it is, or is given up.
pub(super) struct Sending(Arc<State>);

impl Sending {
    /// Gives the copy up.
    pub(super) fn fail(self, failure: String) {
        lock(&self.0.copies).failure.get_or_insert(failure);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        lock(&self.0.copies).left -= 1;
        self.0.changed.notify_all();
    }
}

impl State {
    /// Waits until all copies are queued.
    fn queued(&self) -> Result<(), String> {
        let mut copies = lock(&self.copies);
        while copies.left > 0 {
            let woken = self.changed.wait(copies);
            copies = woken.unwrap_or_else(PoisonError::into_inner);
        }
        match &copies.failure {
            None => Ok(()),
            Some(failure) => Err(failure.clone()),
        }
    }
}

/// [`KernelDevice::begin_uploads`](crate::KernelDevice::begin_uploads); `None` if it is not a CUDA
/// device or cannot be served here.
pub(crate) fn try_begin<R: CubeRuntime>(
    rows: &[HostRow],
    device: &R::Device,
) -> Option<(Vec<CubeTensor<R>>, UploadTicket)> {
    let device = (device as &dyn Any).downcast_ref::<CudaDevice>()?;
    let (rows, ticket) = begin(rows, device)?;
    Some((cast(rows)?, ticket))
}

fn begin(rows: &[HostRow], device: &CudaDevice) -> Option<(Vec<Cuda>, UploadTicket)> {
    let index = device.index;
    if !ENGINES.is_ready(index, |_| Some(true), |_| true) {
        return None;
    }
    theirs::watch(index);
    let client = CudaRuntime::client(device);
    if rows.is_empty() {
        // Looks for cubecl's streams, which takes a while.
        let handle = client.empty(size_of::<f32>());
        let shape = Shape::new([1]);
        let (client, device) = (client.clone(), device.clone());
        let any = CubeTensor::new_contiguous(client, device, shape, handle, DType::F32);
        ENGINES.submit_to(index, [&any], |_, [_]| Ok(()));
    }
    let state = Arc::<State>::default();
    let mut buffers = Vec::with_capacity(rows.len());
    for HostRow { bytes, dtype } in rows {
        let handle = client.empty(bytes.len());
        let shape = Shape::new([bytes.len() / dtype.size()]);
        let buffer =
            CubeTensor::new_contiguous(client.clone(), device.clone(), shape, handle, *dtype);
        lock(&state.copies).left += 1;
        let (bytes, sending) = (bytes.clone(), Sending(state.clone()));
        ENGINES.submit_to(index, [&buffer], move |engine, [address]| {
            engine.send(address, bytes, sending)
        });
        buffers.push(buffer);
    }
    let arrival = Arrival {
        index,
        state,
        buffers: Mutex::new(buffers.clone()),
    };
    Some((buffers, UploadTicket::new(Arc::new(arrival))))
}

/// [`KernelDevice::await_uploads`](crate::KernelDevice::await_uploads).
pub(crate) fn finish(ticket: &UploadTicket) {
    if let Some(arrival) = ticket.pending::<Arrival>() {
        arrival.finish();
    }
}

impl Arrival {
    fn finish(&self) {
        let buffers = std::mem::take(&mut *lock(&self.buffers));
        let state = self.state.clone();
        ENGINES.submit_to(self.index, [], move |engine, []| {
            let done = arrive(engine, &state);
            // Nothing is given this memory before what is queued from now on.
            drop(buffers);
            done
        });
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let buffers = std::mem::take(&mut *lock(&self.buffers));
        if buffers.is_empty() {
            return;
        }
        // Sent ahead for nothing, after an error perhaps, which is told elsewhere.
        let (index, state) = (self.index, self.state.clone());
        device_thread(index).submit(move |_| {
            let _ = ENGINES.with(index, |engine| arrive(engine, &state));
            drop(buffers);
        });
    }
}

/// Lets what is queued from now on wait for copies.
fn arrive(engine: &Copies, state: &State) -> Result<(), String> {
    engine.stream.enter()?;
    let queued = state.queued();
    engine.stream.rejoin()?;
    queued
}
