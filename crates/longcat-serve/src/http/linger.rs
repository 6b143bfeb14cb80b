//! What is left of a request after it was refused.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use futures_util::future::poll_fn;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle;

/// How much of a refused request is still taken in.
const MOST: usize = 64 << 20;
/// And for how long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of a request. What nobody has read when it is dropped is read and forgotten: a connection that
/// is closed with something unread loses the answer on its way, and its client would not learn why.
pub(super) struct Lingering(Option<Body>);

impl Lingering {
    pub(super) fn new(body: Body) -> Self {
        Self(Some(body))
    }
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.as_ref();
        body.map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        // Without a runtime the connection is gone, too.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(PATIENCE, forget(body)));
        }
    }
}

async fn forget(mut body: Body) {
    let mut taken = 0;
    while taken < MOST {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let Some(Ok(frame)) = frame else {
            return;
        };
        taken += frame.data_ref().map_or(0, Bytes::len);
    }
}
