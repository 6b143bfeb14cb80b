//! Sums over the GPUs of several processes, through NCCL.

use std::any::Any;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, TryLockError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use burn_backend::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;
use cudarc::nccl::result::{self as nccl, NcclError};
use cudarc::nccl::sys;

use crate::cuda::cast;
use crate::cuda::engines::Engines;
use crate::cuda::stream::{OrderedStream, device_thread, lock, say};
use crate::cuda::transfers::nccl_problem;
use crate::ranks::{Group, RankGroup};

static ENGINES: Engines<OrderedStream> = Engines::required("summing gradients through NCCL");

/// How long a rank that is through waits for the others in NCCL.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a call that only queues work may take. One that takes longer waits for a rank that is gone, and nothing
/// ends it but an abort.
const CALL: Duration = Duration::from_secs(2);

/// This process in a group.
struct Communicator {
    index: usize,
    /// Null once the group was left.
    handle: AtomicPtr<sys::ncclComm>,
    /// Held from reading the handle to the end of a call with it: NCCL takes one call at a time, and frees in an
    /// abort what another thread's call would go on reading.
    calls: Mutex<()>,
}

impl Communicator {
    /// The handle, which is given back once only. Waits for a call that has it.
    fn take(&self) -> Option<*mut sys::ncclComm> {
        // Calls that begin later find none.
        let handle = self.handle.swap(ptr::null_mut(), Ordering::AcqRel);
        if handle.is_null() {
            return None;
        }
        let until = Instant::now() + CALL;
        while self.is_called() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        Some(handle)
    }

    fn is_called(&self) -> bool {
        matches!(self.calls.try_lock(), Err(TryLockError::WouldBlock))
    }
}

impl Group for Communicator {
    fn leave(&self) {
        if let Some(handle) = self.take() {
            // SAFETY: made by NCCL, and given back here. No call has it but one that waits for another rank and looks
            // whether it is aborted.
            let _ = unsafe { nccl::comm_abort(handle) };
        }
    }

    fn end(&self) {
        if self.handle.load(Ordering::Acquire).is_null() {
            return;
        }
        // What was queued before finds the group as it was.
        let _ = device_thread(self.index).submit_blocking(|_| ());
        let Some(handle) = self.take() else {
            return;
        };
        // Who is first gives the handle back.
        let given_back = Arc::new(AtomicBool::new(false));
        let (tell, ended) = mpsc::channel();
        let (address, taken) = (handle as usize, given_back.clone());
        thread::spawn(move || {
            let handle = address as *mut sys::ncclComm;
            // SAFETY: made by NCCL, and no call but an abort is made with it elsewhere.
            let finalized = unsafe { nccl::comm_finalize(handle) };
            if finalized.is_ok() && !taken.swap(true, Ordering::AcqRel) {
                // SAFETY: as above, and nobody else gives it back.
                let _ = unsafe { nccl::comm_destroy(handle) };
                // Whoever waits may have gone on.
                let _ = tell.send(());
            }
        });
        // A rank that is gone would be waited for for ever.
        if ended.recv_timeout(FAREWELL).is_err() && !given_back.swap(true, Ordering::AcqRel) {
            // SAFETY: as in `leave`.
            let _ = unsafe { nccl::comm_abort(handle) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.end();
    }
}

/// cudarc panics at the first call into a library that is not there.
fn opened() -> Result<(), String> {
    nccl_problem().map_or(Ok(()), Err)
}

/// See [`RankGroup::new_id`].
pub(crate) fn new_id() -> Result<Vec<u8>, String> {
    opened()?;
    let id = nccl::get_uniqueid().map_err(|err| words("ncclGetUniqueId", &err))?;
    Ok(id.internal.map(|byte| byte as u8).to_vec())
}

/// See [`RankGroup::join`].
pub(crate) fn join(index: usize, id: &[u8], rank: usize, size: usize) -> Result<RankGroup, String> {
    opened()?;
    let Ok(id) = <[u8; 128]>::try_from(id) else {
        return Err(format!("{} bytes are no id of NCCL", id.len()));
    };
    let id = sys::ncclUniqueId {
        internal: id.map(|byte| byte as c_char),
    };
    if !ENGINES.is_ready(index, |_| Some(true), |_| true) {
        let refusal = ENGINES.refusal();
        return Err(refusal.unwrap_or_else(|| format!("cuda:{index} does not answer")));
    }
    // On the thread that owns the device, where its context is made current.
    let joined = device_thread(index).submit_blocking(move |_| {
        let entered = ENGINES.with(index, OrderedStream::enter);
        entered.unwrap_or_else(|| Err(format!("cuda:{index} has no stream")))?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is written to before this returns.
        unsafe { nccl::comm_init_rank(&mut handle, size as i32, id, rank as i32) }
            .map_err(|err| words("ncclCommInitRank", &err))?;
        Ok::<_, String>(Communicator {
            index,
            handle: AtomicPtr::new(handle),
            calls: Mutex::new(()),
        })
    });
    let joined = joined.map_err(|err| say("device thread", err))?;
    joined.map(RankGroup::new)
}

/// See [`KernelDevice::sum_over_ranks`](crate::KernelDevice::sum_over_ranks).
pub(crate) fn try_sum<R: CubeRuntime>(
    x: &CubeTensor<R>,
    group: &RankGroup,
) -> Option<CubeTensor<R>> {
    let x = (x as &dyn Any).downcast_ref::<CubeTensor<CudaRuntime>>()?;
    let communicator = group.of::<Communicator>()?;
    if x.dtype != DType::F32 || x.device.index != communicator.index {
        return None;
    }
    let x = into_contiguous(x.clone());
    let shape = x.meta.shape().clone();
    let count = shape.iter().product::<usize>();
    let sums = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, DType::F32);
    let group = group.clone();
    ENGINES.submit([&x, &sums], move |stream, [x, sums]| {
        let left = || "the group of ranks was left".to_string();
        let communicator = group.of::<Communicator>().ok_or_else(left)?;
        let _call = lock(&communicator.calls);
        let handle = communicator.handle.load(Ordering::Acquire);
        if handle.is_null() {
            return Err(left());
        }
        stream.run(|queue| {
            // SAFETY: the communicator was made for this device, whose context is current; both
            // buffers hold so many numbers and live until what is queued here is done.
            let queued = unsafe {
                nccl::all_reduce(
                    x as *const c_void,
                    sums as *mut c_void,
                    count,
                    sys::ncclDataType_t::ncclFloat32,
                    sys::ncclRedOp_t::ncclSum,
                    handle,
                    queue.cast(),
                )
            };
            queued
                .map(|_| ())
                .map_err(|err| words("ncclAllReduce", &err))
        })
    });
    cast(sums)
}

fn words(what: &str, error: &NcclError) -> String {
    format!("{what}: {:?}; NCCL_DEBUG=INFO tells more", error.0)
}
