//! A CUDA stream of ours beside those of cubecl, for code that is not cubecl's.
//!
//! cubecl keeps its CUDA streams to itself, so libraries and source kernels run on a stream of
//! ours, ordered against all of cubecl's by two context-wide events (CUDA 12.5): the work waits for
//! everything that was submitted to the context before it, and everything submitted after it waits
//! for the work. Nothing waits on the host. Because the order covers every stream, memory that
//! cubecl frees or hands to another stream after the call cannot be touched too early either.
//!
//! Copies that run beside the work (`prefetch`) must be left out of that order, which the context's
//! events cannot do. Once there are any, events of cubecl's own streams (`theirs`) do the same.

use std::ffi::{CStr, c_void};
use std::fmt::Debug;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cubecl::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cudarc::driver::{result as driver, sys};

use super::staging::Destination;
use super::theirs;

/// What owns a device in cubecl, on a thread of its own.
pub(crate) type Server = <CudaRuntime as Runtime>::Server;

type ContextEvent = unsafe extern "C" fn(sys::CUcontext, sys::CUevent) -> sys::CUresult;

/// The thread of a device, where its context is current.
pub(crate) fn device_thread(index: usize) -> DeviceHandle<Server> {
    DeviceHandle::new(cubecl::cuda::CudaDevice::new(index).to_id())
}

/// For maps that a panic elsewhere leaves whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error of the driver or a library, with what was being done.
pub(crate) fn say(what: &str, err: impl Debug) -> String {
    format!("{what}: {err:?}")
}

/// A stream on one device.
pub(crate) struct OrderedStream {
    index: usize,
    context: sys::CUcontext,
    stream: sys::CUstream,
    before: sys::CUevent,
    after: sys::CUevent,
    record_context: ContextEvent,
    wait_context: ContextEvent,
}

// SAFETY: the handles may be used from any thread, one at a time; owners sit behind a mutex.
unsafe impl Send for OrderedStream {}

impl OrderedStream {
    /// Makes a stream on device `index` and leaves the device's context current.
    pub(crate) fn open(index: usize) -> Result<Self, String> {
        let device = driver::device::get(index as i32).map_err(|err| say("device", err))?;
        // SAFETY: `device` was just returned by the driver. cubecl works in the primary context
        // too; our reference is never released, so it outlives every use.
        let context =
            unsafe { driver::primary_ctx::retain(device) }.map_err(|err| say("context", err))?;
        // SAFETY: a context of this process.
        unsafe { driver::ctx::set_current(context) }.map_err(|err| say("context", err))?;
        let record_context = driver_function(c"cuCtxRecordEvent")?;
        let wait_context = driver_function(c"cuCtxWaitEvent")?;
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking)
            .map_err(|err| say("stream", err))?;
        let event = || {
            driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                .map_err(|err| say("event", err))
        };
        let (before, after) = (event()?, event()?);
        Ok(Self {
            index,
            context,
            stream,
            before,
            after,
            record_context,
            wait_context,
        })
    }

    /// Where copies are queued by another thread.
    pub(super) fn destination(&self) -> Destination {
        Destination {
            context: self.context,
            stream: self.stream,
        }
    }

    /// The context of the device.
    pub(super) fn context(&self) -> sys::CUcontext {
        self.context
    }

    /// Makes the device's context current on this thread.
    pub(crate) fn enter(&self) -> Result<(), String> {
        // SAFETY: a context of this process.
        unsafe { driver::ctx::set_current(self.context) }.map_err(|err| say("context", err))
    }

    /// Queues work behind everything submitted to the device so far, copies ahead of their use
    /// excepted, and what is submitted later behind the work. The device's context must be current.
    pub(crate) fn run(
        &self,
        work: impl FnOnce(sys::CUstream) -> Result<(), String>,
    ) -> Result<(), String> {
        self.run_aside(work)?;
        self.rejoin()
    }

    /// Queues work as [`Self::run`] does, and holds nothing back.
    pub(crate) fn run_aside<T>(
        &self,
        work: impl FnOnce(sys::CUstream) -> Result<T, String>,
    ) -> Result<T, String> {
        self.follow()?;
        work(self.stream)
    }

    /// Lets the stream wait for everything submitted so far.
    fn follow(&self) -> Result<(), String> {
        let streams = theirs::known(self.index);
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: handles made in `open` and never freed, and streams that cubecl never frees.
        let wait = || unsafe {
            driver::stream::wait_event(self.stream, self.before, flags)
                .map_err(|err| say("cuStreamWaitEvent", err))
        };
        if streams.is_empty() {
            // SAFETY: as above.
            unsafe { (self.record_context)(self.context, self.before) }
                .result()
                .map_err(|err| say("cuCtxRecordEvent", err))?;
            return wait();
        }
        for stream in streams {
            // What waits for an event waits for what it was last recorded for by then.
            // SAFETY: as above.
            unsafe { driver::event::record(self.before, stream) }
                .map_err(|err| say("cuEventRecord", err))?;
            wait()?;
        }
        Ok(())
    }

    /// Lets everything submitted later wait for what was queued here. The device's context must be
    /// current.
    pub(crate) fn rejoin(&self) -> Result<(), String> {
        // SAFETY: handles made in `open` and never freed.
        unsafe { driver::event::record(self.after, self.stream) }
            .map_err(|err| say("cuEventRecord", err))?;
        let streams = theirs::known(self.index);
        if streams.is_empty() {
            // SAFETY: as above.
            return unsafe { (self.wait_context)(self.context, self.after) }
                .result()
                .map_err(|err| say("cuCtxWaitEvent", err));
        }
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        for stream in streams {
            // SAFETY: as above, and streams that cubecl never frees.
            unsafe { driver::stream::wait_event(stream, self.after, flags) }
                .map_err(|err| say("cuStreamWaitEvent", err))?;
        }
        Ok(())
    }
}

/// A driver function of CUDA 12.5, asked for by name so that older drivers and toolkits only lose
/// what needs it.
fn driver_function(name: &CStr) -> Result<ContextEvent, String> {
    const CUDA_12_5: i32 = 12_050;
    let mut address = ptr::null_mut();
    // SAFETY: the name ends in NUL and the result pointer may be null.
    let status = unsafe {
        sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, CUDA_12_5, 0, ptr::null_mut())
    };
    if status.result().is_err() || address.is_null() {
        return Err(format!(
            "the driver has no {name:?}; it needs CUDA 12.5 or later"
        ));
    }
    // SAFETY: both functions that are asked for have this signature.
    Ok(unsafe { std::mem::transmute::<*mut c_void, ContextEvent>(address) })
}
