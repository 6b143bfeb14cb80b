//! Buffers that host and device share, and copies from them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use burn::tensor::try_read_sync;
use burn_wgpu::{WgpuResource, WgpuSetup};
use wgpu::{
    Buffer, BufferAsyncError, BufferDescriptor, BufferUsages, CommandEncoderDescriptor, Device,
    ErrorFilter, MapMode, PollType, Queue,
};

/// A buffer: large enough to hide the cost of a submission, small enough to stay in the cache.
const BUFFER_BYTES: usize = 4 << 20;
/// Buffers of a device, 64 MiB: enough for eight threads that write one while the device reads another.
const MOST_BUFFERS: usize = 16;
/// Between two looks at whether the device is done with a buffer, which a copy of one takes at least.
const PAUSE: Duration = Duration::from_micros(100);

/// What uploads to one device go through.
pub(super) struct Staging {
    device: Device,
    queue: Queue,
    buffers: Arc<Buffers>,
}

/// The buffers of a device.
#[derive(Default)]
struct Buffers {
    state: Mutex<State>,
    /// Told whenever one is free again, or will never be.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that the host may write to.
    free: Vec<Buffer>,
    /// How many there are.
    made: usize,
    /// Whether the device refused one.
    refused: bool,
}

impl Staging {
    pub(super) fn new(setup: &WgpuSetup) -> Self {
        Self {
            device: setup.device.clone(),
            queue: setup.queue.clone(),
            buffers: Arc::default(),
        }
    }

    /// Submits copies of `bytes`, a multiple of four, to `to`: behind everything that was submitted before, and
    /// before everything that is submitted later. The bytes are read when this returns. `None` if the device
    /// has no memory for it.
    pub(super) fn send(&self, to: &WgpuResource, bytes: &[u8]) -> Option<()> {
        let mut at = to.offset;
        for part in bytes.chunks(BUFFER_BYTES) {
            let buffer = self.take()?;
            let length = part.len() as u64;
            buffer.get_mapped_range_mut(..length).copy_from_slice(part);
            buffer.unmap();
            let mut encoder = self
                .device
                .create_command_encoder(&CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&buffer, 0, &to.buffer, at, length);
            self.queue.submit([encoder.finish()]);
            let (buffers, copied) = (self.buffers.clone(), buffer.clone());
            buffer.map_async(MapMode::Write, .., move |mapped| {
                buffers.give_back(copied, mapped);
            });
            at += length;
        }
        Some(())
    }

    /// A buffer that the host may write to; waits for the device where there are enough of them.
    fn take(&self) -> Option<Buffer> {
        loop {
            let mut state = self.buffers.state();
            if state.refused {
                return None;
            }
            if let Some(buffer) = state.free.pop() {
                return Some(buffer);
            }
            if state.made < MOST_BUFFERS {
                state.made += 1;
                drop(state);
                return self.make();
            }
            drop(state);
            // wgpu looks for what is done when it is asked to. Were it asked to wait, other threads could
            // submit nothing meanwhile. An error is that of a wait.
            let _ = self.device.poll(PollType::Poll);
            let state = self.buffers.state();
            if state.free.is_empty() && !state.refused {
                // Whether in time or not, everything is looked at again.
                drop(self.buffers.changed.wait_timeout(state, PAUSE));
            }
        }
    }

    fn make(&self) -> Option<Buffer> {
        let scope = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&BufferDescriptor {
            label: Some("longcat staging"),
            size: BUFFER_BYTES as u64,
            usage: BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        // At once on every platform but the web.
        match try_read_sync(scope.pop()) {
            Some(None) => Some(buffer),
            _ => {
                self.buffers.refuse();
                None
            }
        }
    }
}

impl Buffers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a buffer that the device has read.
    fn give_back(&self, buffer: Buffer, mapped: Result<(), BufferAsyncError>) {
        match mapped {
            Ok(()) => {
                self.state().free.push(buffer);
                self.changed.notify_one();
            }
            Err(_) => self.refuse(),
        }
    }

    fn refuse(&self) {
        self.state().refused = true;
        self.changed.notify_all();
    }
}
