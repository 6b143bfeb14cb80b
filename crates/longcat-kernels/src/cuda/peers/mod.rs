//! Parts of tensors copied between CUDA devices, or on one of them, beside the work that is queued.
//!
//! Each device sends what it has through its copy engines, on a stream of its own, and writes it where the
//! other one is to read it: no kernel of either device takes part, and both directions go at once. A copy
//! waits for what was queued before on all devices, which may still use the memory that it goes to; work that
//! is queued later does not wait for it, until it is awaited. Copies need devices that reach each other's
//! memory; others exchange tensors through NCCL (`transfers`).

mod reach;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;

use burn_backend::Backend;
use burn_backend::tensor::FloatTensor;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cudarc::driver::{result as driver, sys};

use crate::cuda::cast;
use crate::cuda::engines::{Engine, Engines};
use crate::cuda::stream::{OrderedStream, device_thread, say};
use crate::cuda::theirs;
use crate::{AwaitCopies, BeginCopies, PartCopies, PartCopy};
use reach::{End, reaches};

pub use reach::peers_problem;

type Cuda = CubeTensor<CudaRuntime>;

static ENGINES: Engines<Copies> =
    Engines::new("exchanging tensors between GPUs", "LONGCAT_NO_PEERS");

/// The copies from one device.
struct Copies {
    sending: OrderedStream,
    /// Stands for what was queued on the device besides, and lets it wait for copies.
    work: OrderedStream,
}

impl Engine for Copies {
    fn open(index: usize) -> Result<Self, String> {
        if std::env::var_os("LONGCAT_NO_PEERS").is_some() {
            return Err("LONGCAT_NO_PEERS is set".into());
        }
        Ok(Self {
            sending: OrderedStream::open(index)?,
            work: OrderedStream::open(index)?,
        })
    }
}

impl Copies {
    /// Lets what is queued from now on wait for events.
    fn hold(&self, events: &[Event]) -> Result<(), String> {
        self.work.enter()?;
        self.work
            .run(|stream| events.iter().try_for_each(|event| event.hold(stream)))
    }
}

/// The end of what was queued on a stream.
struct Event(sys::CUevent);

// SAFETY: events may be used from any thread; the driver locks what it must.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// After all that was queued on a stream of the current context.
    fn after(stream: sys::CUstream) -> Result<Self, String> {
        let event = driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|err| say("event", err))?;
        let event = Self(event);
        // SAFETY: both belong to the current context.
        unsafe { driver::event::record(event.0, stream) }
            .map_err(|err| say("cuEventRecord", err))?;
        Ok(event)
    }

    /// Lets a stream of any device wait for it.
    fn hold(&self, stream: sys::CUstream) -> Result<(), String> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the event was recorded when it was made.
        unsafe { driver::stream::wait_event(stream, self.0, flags) }
            .map_err(|err| say("cuStreamWaitEvent", err))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: nobody refers to it any longer; the driver keeps what streams still wait for.
        let _ = unsafe { driver::event::destroy(self.0) };
    }
}

/// [`KernelDevice::copies_aside`](crate::KernelDevice::copies_aside).
pub(crate) fn begin_copies<B, R>(devices: &[R::Device]) -> Option<BeginCopies<B>>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let indices = devices.iter().map(|device| {
        let device = (device as &dyn Any).downcast_ref::<CudaDevice>();
        device.map(|device| device.index)
    });
    let indices: BTreeSet<usize> = indices.collect::<Option<_>>()?;
    let served = |index: &usize| ENGINES.is_ready(*index, |_| Some(true), |_| true);
    if indices.is_empty() || !indices.iter().all(served) {
        return None;
    }
    let ends = indices.iter().map(|&index| {
        let end = |engine: &Copies| End {
            index,
            at: engine.work.destination(),
        };
        ENGINES.with(index, end)
    });
    let ends: Vec<End> = ends.collect::<Option<_>>()?;
    let reached = |from: &End| ends.iter().all(|to| reaches(*from, *to));
    if !ends.iter().all(reached) {
        return None;
    }
    // Copies are to run beside the work.
    indices.iter().for_each(|index| theirs::watch(*index));
    Some(Box::new(|copies: PartCopies<B>| {
        let sources = copies.sources.into_iter().map(on_cuda::<R>);
        let (rows, shapes): (Vec<FloatTensor<B>>, Vec<_>) = copies.targets.into_iter().unzip();
        let rows = rows.into_iter().map(on_cuda::<R>);
        begin(sources.collect(), rows.collect(), &shapes, copies.parts)
    }))
}

/// A tensor whose device is a CUDA device.
fn on_cuda<R: CubeRuntime>(x: CubeTensor<R>) -> Cuda {
    cast(x).expect("copies are asked for with CUDA devices")
}

/// Begins copies of parts of `sources` to `rows` of these shapes.
fn begin(
    sources: Vec<Cuda>,
    rows: Vec<Cuda>,
    shapes: &[[usize; 4]],
    parts: Vec<PartCopy>,
) -> AwaitCopies {
    let sources: Vec<Cuda> = sources.into_iter().map(into_contiguous).collect();
    let all = sources.iter().chain(&rows);
    let devices: BTreeSet<usize> = all.map(|x| x.device.index).collect();
    // What was queued so far on every device, and where the rows are.
    let mut queued = Vec::with_capacity(devices.len());
    let mut contexts = BTreeMap::new();
    let mut addresses = vec![0; rows.len()];
    for &device in &devices {
        let (here, own) = on_device(&rows, device);
        let (event, context, found) = ENGINES.ask(device, &own, |engine, found| {
            engine.work.enter()?;
            let event = engine.work.run_aside(Event::after)?;
            Ok((event, engine.work.context() as usize, found.to_vec()))
        });
        queued.push(event);
        contexts.insert(device, context);
        for (target, address) in here.into_iter().zip(found) {
            addresses[target] = address;
        }
    }
    // From here on a panic leaves copies that are queued, and no events that tell of their end.
    let mut kept = BTreeMap::<usize, Held>::new();
    for tensor in sources.iter().chain(&rows) {
        let held = kept.entry(tensor.device.index).or_default();
        held.0.push(tensor.clone());
    }
    let queued = Arc::new(queued);
    let mut ends = Vec::with_capacity(devices.len());
    for &device in &devices {
        let (here, own) = on_device(&sources, device);
        let copies = parts.iter().filter_map(|part| {
            let slot = here.iter().position(|source| *source == part.source)?;
            let source = &sources[part.source];
            let place = (
                addresses[part.target],
                contexts[&rows[part.target].device.index],
            );
            let copy = BoxCopy::new(part, source, place, shapes[part.target]);
            Some((slot, copy))
        });
        let copies: Vec<(usize, BoxCopy)> = copies.collect();
        let queued = queued.clone();
        ends.push(ENGINES.ask(device, &own, move |engine, found| {
            engine.sending.enter()?;
            engine.sending.run_aside(|stream| {
                queued.iter().try_for_each(|event| event.hold(stream))?;
                for (slot, copy) in &copies {
                    copy.queue(found[*slot], engine.sending.context(), stream)?;
                }
                Event::after(stream)
            })
        }));
    }
    let pending = Pending {
        ends: Arc::new(ends),
        kept,
    };
    Box::new(|| pending.finish())
}

/// The tensors on a device, and which they are.
fn on_device(tensors: &[Cuda], device: usize) -> (Vec<usize>, Vec<&Cuda>) {
    let all = tensors.iter().enumerate();
    all.filter(|(_, tensor)| tensor.device.index == device)
        .unzip()
}

/// A copy from one tensor `[B, H, N, D]` to another: for each sample and head a run of bytes.
struct BoxCopy {
    /// Address and context of the target.
    place: (u64, usize),
    /// Bytes of a run, heads and samples.
    extent: [usize; 3],
    source: Side,
    target: Side,
}

/// Where a copy lies on one of its sides.
struct Side {
    /// First byte of a head's tokens, and first head.
    start: [usize; 2],
    /// Bytes of a head's tokens, and heads.
    pitch: [usize; 2],
}

impl BoxCopy {
    fn new(part: &PartCopy, source: &Cuda, place: (u64, usize), target: [usize; 4]) -> Self {
        let shape = source.meta.shape();
        let (samples, heads, tokens) = (shape[0], shape[1], shape[2]);
        let token = shape[3] * source.dtype.size();
        let [head_there, token_there] = part.place;
        Self {
            place,
            extent: [part.tokens.len() * token, part.heads.len(), samples],
            source: Side {
                start: [part.tokens.start * token, part.heads.start],
                pitch: [tokens * token, heads],
            },
            target: Side {
                start: [token_there * token, head_there],
                pitch: [target[2] * token, target[1]],
            },
        }
    }

    fn queue(
        &self,
        source: u64,
        context: sys::CUcontext,
        stream: sys::CUstream,
    ) -> Result<(), String> {
        let [bytes, heads, samples] = self.extent;
        let (target, target_context) = self.place;
        let copy = sys::CUDA_MEMCPY3D_PEER {
            srcXInBytes: self.source.start[0],
            srcY: self.source.start[1],
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: ptr::null(),
            srcDevice: source,
            srcArray: ptr::null_mut(),
            srcContext: context,
            srcPitch: self.source.pitch[0],
            srcHeight: self.source.pitch[1],
            dstXInBytes: self.target.start[0],
            dstY: self.target.start[1],
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: ptr::null_mut(),
            dstDevice: target,
            dstArray: ptr::null_mut(),
            dstContext: target_context as sys::CUcontext,
            dstPitch: self.target.pitch[0],
            dstHeight: self.target.pitch[1],
            WidthInBytes: bytes,
            Height: heads,
            Depth: samples,
        };
        // SAFETY: the part is inside of both tensors, which are contiguous and kept until the copy is awaited.
        unsafe { sys::cuMemcpy3DPeerAsync(&copy, stream) }
            .result()
            .map_err(|err| say("cuMemcpy3DPeerAsync", err))
    }
}

/// Tensors of one device that copies read or write. Nobody else may get their memory before the copies are done,
/// and cubecl gives that of a freed tensor to the next one without waiting for other devices. So they are leaked
/// unless they are released: a panic between queueing copies and holding the device back for them frees nothing that
/// is still read or written.
#[derive(Default)]
struct Held(ManuallyDrop<Vec<Cuda>>);

impl Held {
    /// Frees them, on the thread of a device that holds back for the copies whatever it is given from now on.
    fn release(self) {
        drop(ManuallyDrop::into_inner(self.0));
    }
}

/// Copies that are not awaited yet.
struct Pending {
    ends: Arc<Vec<Event>>,
    /// Their tensors by device.
    kept: BTreeMap<usize, Held>,
}

impl Pending {
    fn finish(mut self) {
        // What is still there after a panic is left to `drop`.
        while let Some((device, held)) = self.kept.pop_first() {
            let ends = self.ends.clone();
            ENGINES.submit_to(device, [], move |engine, []| {
                engine.hold(&ends)?;
                held.release();
                Ok(())
            });
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Begun for nothing, after an error perhaps, which is told elsewhere.
        while let Some((device, held)) = self.kept.pop_first() {
            let ends = self.ends.clone();
            device_thread(device).submit(move |_| {
                let holds = ENGINES.with(device, |engine| engine.hold(&ends));
                if matches!(holds, Some(Ok(()))) {
                    held.release();
                }
            });
        }
    }
}
