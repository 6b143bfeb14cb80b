//! Copies from memory whose pages cannot be locked: a thread beside passes them through buffers.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use cudarc::driver::{result as driver, sys};

use super::prefetch::Sending;
use super::stream::say;
use super::upload::{BUFFER_BYTES, Buffer};
use crate::HostBytes;

/// Threads that read memory, each with two buffers. One reads pages of a mapped file at 2 GB/s.
const READERS: usize = 6;

/// Bytes for a device address, and what is told once their copies are queued.
pub(super) struct Job {
    pub(super) address: u64,
    pub(super) bytes: HostBytes,
    pub(super) sending: Sending,
}

/// Where copies are queued.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    pub(super) context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
}

// SAFETY: contexts and streams may be used from any thread; the driver locks what it must.
unsafe impl Send for Destination {}
// SAFETY: as above.
unsafe impl Sync for Destination {}

impl Destination {
    /// Makes its context current on this thread.
    pub(super) fn enter(self) -> Result<(), String> {
        // SAFETY: a context of this process.
        unsafe { driver::ctx::set_current(self.context) }.map_err(|err| say("context", err))
    }
}

/// Starts the thread, which works until nobody can send it more.
pub(super) fn start(destination: Destination) -> Result<Sender<Job>, String> {
    let (sender, jobs) = channel();
    thread::Builder::new()
        .name("longcat-staging".into())
        .spawn(move || work(destination, &jobs))
        .map_err(|err| say("thread", err))?;
    Ok(sender)
}

fn work(destination: Destination, jobs: &Receiver<Job>) {
    let mut buffers = Vec::new();
    for job in jobs {
        let done = make(destination, &mut buffers)
            .and_then(|()| copy(destination, &mut buffers, job.address, &job.bytes));
        match done {
            Ok(()) => drop(job.sending),
            Err(failure) => job.sending.fail(failure),
        }
    }
}

/// Makes the buffers for the first job.
fn make(destination: Destination, buffers: &mut Vec<[Buffer; 2]>) -> Result<(), String> {
    destination.enter()?;
    while buffers.len() < READERS {
        buffers.push([Buffer::new()?, Buffer::new()?]);
    }
    Ok(())
}

/// Queues the copies; the bytes are read when this returns.
fn copy(
    destination: Destination,
    buffers: &mut [[Buffer; 2]],
    address: u64,
    bytes: &[u8],
) -> Result<(), String> {
    let parts: Vec<&[u8]> = bytes.chunks(BUFFER_BYTES).collect();
    let (next, parts) = (AtomicUsize::new(0), parts.as_slice());
    thread::scope(|scope| {
        let readers = buffers.iter_mut().map(|buffers| {
            let next = &next;
            scope.spawn(move || -> Result<(), String> {
                destination.enter()?;
                for buffer in buffers.iter().cycle() {
                    let i = next.fetch_add(1, Relaxed);
                    let Some(part) = parts.get(i) else {
                        break;
                    };
                    let to = address + (i * BUFFER_BYTES) as u64;
                    buffer.send(to, part, destination.stream)?;
                }
                Ok(())
            })
        });
        let readers: Vec<_> = readers.collect();
        let done = readers.into_iter().map(|reader| {
            let failed = || Err("a thread that reads weights failed".to_string());
            reader.join().unwrap_or_else(|_| failed())
        });
        done.collect()
    })
}
