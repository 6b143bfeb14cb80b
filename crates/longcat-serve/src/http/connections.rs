//! Connections: how many there are at once, and how long each waits for its client.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use crate::Limits;

/// Answers whoever connects until `stopping` says so, and then those whose requests have begun. Who comes
/// when all places are taken waits in the queue of the system.
pub(crate) async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: &Limits,
    stopping: watch::Receiver<bool>,
) {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time);
    let mut open = JoinSet::new();
    let mut ending = pin!(stopped(stopping.clone()));
    loop {
        tokio::select! {
            biased;
            () = ending.as_mut() => break,
            Some(_) = open.join_next() => {}
            (stream, _) = Listener::accept(&mut listener), if open.len() < limits.connections => {
                let io = TokioIo::new(Patient::new(stream, limits.stall_time));
                let service = TowerToHyperService::new(router.clone());
                let connection = builder.serve_connection(io, service);
                let stopped = stopped(stopping.clone());
                open.spawn(async move {
                    let mut connection = pin!(connection);
                    tokio::select! {
                        biased;
                        () = stopped => connection.as_mut().graceful_shutdown(),
                        // A client that breaks off is no fault of the server.
                        _ = connection.as_mut() => return,
                    }
                    let _ = connection.await;
                });
            }
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // Without its sender the server is gone as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// A stream that fails when its other side takes nothing of what it is sent for too long.
struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Since when something waits to be taken.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        taken: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.waiting = None;
            return taken;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        waiting
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.in_time(context, taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(context, taken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = Pin::new(&mut self.stream).poll_shutdown(context);
        self.in_time(context, taken)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn a_reader_that_pauses_is_waited_for_and_one_that_stops_is_left() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut reader, writer) = duplex(10);
            let mut writer = Patient::new(writer, Duration::from_secs(1));
            let read = async {
                let mut bytes = [0; 10];
                // Longer than the patience in all, but not at once.
                for _ in 0..6 {
                    sleep(Duration::from_millis(200)).await;
                    reader.read_exact(&mut bytes).await.unwrap();
                }
                bytes
            };
            let (written, _) = tokio::join!(writer.write_all(&[7; 70]), read);
            written.unwrap();
            let error = writer.write_all(&[7; 70]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
