//! Which CUDA devices write to each other's memory.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::Mutex;

use cudarc::driver::{result as driver, sys};

use super::{BoxCopy, Side};
use crate::cuda::staging::Destination;
use crate::cuda::stream::{device_thread, lock, say};

/// Whether the first device of a pair writes to the memory of the second.
static REACH: Mutex<BTreeMap<(usize, usize), bool>> = Mutex::new(BTreeMap::new());

/// The first pair that should have and did not, in words.
static FAILED: Mutex<Option<String>> = Mutex::new(None);

/// Bytes that are sent to see whether they arrive.
const TRIAL: usize = 1 << 20;
/// The value of each.
const TRACE: u8 = 0xa5;

/// A device, and where work for it is queued.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) index: usize,
    pub(super) at: Destination,
}

/// Why GPUs do not copy to each other's memory though the driver says that they can, as far as that is known by
/// now: it is tried when they first exchange tensors.
pub fn peers_problem() -> Option<String> {
    lock(&FAILED).clone()
}

/// Whether one device writes to the memory of another, or its own. The first time it is let and tried: there are
/// hosts on which the driver says so and what was sent does not arrive. The answer holds for the process.
pub(super) fn reaches(from: End, to: End) -> bool {
    let pair = (from.index, to.index);
    if let Some(known) = lock(&REACH).get(&pair) {
        return *known;
    }
    let open = move || -> Result<bool, String> {
        from.at.enter()?;
        if from.index != to.index && !allow(from, to)? {
            return Ok(false);
        }
        let tried = attempt(from.at, to.at);
        // As this thread had it.
        from.at.enter().and(tried)?;
        Ok(true)
    };
    let answer = device_thread(from.index).submit_blocking(move |_| open());
    let answer = answer.unwrap_or_else(|err| Err(say("device thread", err)));
    let opened = answer.unwrap_or_else(|reason| {
        let words = || {
            format!(
                "copies from cuda:{} to cuda:{} do not work ({reason}): until this program is started anew GPUs \
                 exchange tensors through NCCL, which their work waits for; LONGCAT_NO_PEERS=1 takes that way \
                 without a trial",
                pair.0, pair.1
            )
        };
        lock(&FAILED).get_or_insert_with(words);
        false
    });
    lock(&REACH).insert(pair, opened);
    opened
}

/// Lets one device write to the memory of another, if there is a way from one to the other; the context of the
/// first is current.
fn allow(from: End, to: End) -> Result<bool, String> {
    let device =
        |end: End| driver::device::get(end.index as i32).map_err(|err| say("cuDeviceGet", err));
    let (own, other) = (device(from)?, device(to)?);
    let mut can = 0;
    // SAFETY: the pointer is written to before this returns.
    unsafe { sys::cuDeviceCanAccessPeer(&mut can, own, other) }
        .result()
        .map_err(|err| say("cuDeviceCanAccessPeer", err))?;
    if can == 0 {
        return Ok(false);
    }
    // SAFETY: a context of this process, which is never released.
    let enabled = unsafe { sys::cuCtxEnablePeerAccess(to.at.context, 0) };
    if enabled != sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED {
        enabled
            .result()
            .map_err(|err| say("cuCtxEnablePeerAccess", err))?;
    }
    // cubecl's memory is that of a pool, whose rights are its own.
    let mut pool = ptr::null_mut();
    let access = PoolAccess {
        kind: 1,
        device: own,
        rights: 3,
    };
    // SAFETY: the first call writes the pool, which the second one uses; `access` is what it reads.
    unsafe {
        sys::cuDeviceGetMemPool(&mut pool, other)
            .result()
            .map_err(|err| say("cuDeviceGetMemPool", err))?;
        sys::cuMemPoolSetAccess(pool, (&raw const access).cast(), 1)
            .result()
            .map_err(|err| say("cuMemPoolSetAccess", err))?;
    }
    Ok(true)
}

/// `CUmemAccessDesc`, whose fields have other names in other versions of CUDA.
#[repr(C)]
struct PoolAccess {
    /// 1: a device.
    kind: i32,
    device: i32,
    /// 3: to read and to write.
    rights: i32,
}

/// Sends something and looks whether it is there.
fn attempt(from: Destination, to: Destination) -> Result<(), String> {
    let target = Room::filled(to, 0)?;
    let source = Room::filled(from, TRACE)?;
    let whole = || Side {
        start: [0, 0],
        pitch: [TRIAL, 1],
    };
    let copy = BoxCopy {
        place: (target.address, to.context as usize),
        extent: [TRIAL, 1, 1],
        source: whole(),
        target: whole(),
    };
    copy.queue(source.address, from.context, from.stream)?;
    source.wait()?;
    match target.read()?.iter().all(|byte| *byte == TRACE) {
        true => Ok(()),
        false => Err("what was sent did not arrive".into()),
    }
}

/// Memory of a device for a trial.
struct Room {
    at: Destination,
    address: sys::CUdeviceptr,
}

impl Room {
    /// All of one value. Leaves the context of `at` current.
    fn filled(at: Destination, value: u8) -> Result<Self, String> {
        at.enter()?;
        // SAFETY: a stream of the current context.
        let address = unsafe { driver::malloc_async(at.stream, TRIAL) };
        let room = Self {
            at,
            address: address.map_err(|err| say("cuMemAllocAsync", err))?,
        };
        // SAFETY: so many bytes were asked for on this stream.
        unsafe { driver::memset_d8_async(room.address, value, TRIAL, at.stream) }
            .map_err(|err| say("cuMemsetD8Async", err))?;
        room.wait()?;
        Ok(room)
    }

    /// Waits for what was queued.
    fn wait(&self) -> Result<(), String> {
        // SAFETY: a stream that is never destroyed.
        unsafe { driver::stream::synchronize(self.at.stream) }
            .map_err(|err| say("cuStreamSynchronize", err))
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        self.at.enter()?;
        let mut bytes = vec![0; TRIAL];
        // SAFETY: so many bytes are there, and written to before they are looked at.
        unsafe { driver::memcpy_dtoh_async(&mut bytes, self.address, self.at.stream) }
            .map_err(|err| say("copy", err))?;
        self.wait()?;
        Ok(bytes)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: allocated on this stream, and not used behind this.
        let _ = unsafe { driver::free_async(self.address, self.at.stream) };
    }
}
