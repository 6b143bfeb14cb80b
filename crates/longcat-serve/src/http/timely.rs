//! Requests that come in time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::Limits;

/// The body of a request, which ends in an error when nothing comes of it for too long, or when all of it
/// comes too slowly.
pub(super) struct Timely {
    body: Body,
    stall_time: Duration,
    bytes_per_second: u64,
    begun: Instant,
    taken: u64,
    deadline: Pin<Box<Sleep>>,
    late: Late,
}

/// Whether the body of a request came too slowly.
#[derive(Clone, Default)]
pub(super) struct Late(Arc<AtomicBool>);

impl Late {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Timely {
    pub(super) fn new(body: Body, limits: &Limits, late: Late) -> Self {
        Self {
            body,
            stall_time: limits.stall_time,
            bytes_per_second: limits.bytes_per_second.max(1),
            begun: Instant::now(),
            taken: 0,
            deadline: Box::pin(sleep(limits.stall_time)),
            late,
        }
    }

    fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        let allowed = Duration::from_secs(self.taken / self.bytes_per_second);
        let stalled = Instant::now() + self.stall_time;
        let slow = self.begun + self.stall_time + allowed;
        self.deadline.as_mut().reset(stalled.min(slow));
    }
}

impl HttpBody for Timely {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(frame) = frame {
            if let Some(Ok(frame)) = &frame {
                self.took(frame.data_ref().map_or(0, Bytes::len));
            }
            return Poll::Ready(frame);
        }
        // A deadline that has passed stays, for whoever asks again.
        if !self.late.is_set() && self.deadline.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.late.0.store(true, Ordering::SeqCst);
        let error = io::Error::from(io::ErrorKind::TimedOut);
        Poll::Ready(Some(Err(Error::new(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
