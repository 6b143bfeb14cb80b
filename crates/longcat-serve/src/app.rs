//! A server: its parts, its start and its end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::data::Data;
use crate::http::{router, serve};
use crate::hub::Hub;
use crate::library::Library;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::studio::{About, Studio};
use crate::worker::{Bell, finish, work};
use crate::{Limits, ServeError};

/// Uploads that are decoded at once.
const DECODING: usize = 2;
/// How often a server looks whether it shall stop.
const GLANCE: Duration = Duration::from_millis(100);
/// How long requests may take to end when it stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a server works.
pub struct ServeOptions {
    /// The address that it listens on; other machines reach it by any but those of the loopback.
    pub host: IpAddr,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// What a server before this one has listened with, in the place of host and port.
    pub listener: Option<TcpListener>,
    /// The folder of its jobs and uploads.
    pub data: PathBuf,
    /// The folder of adapters that can be used.
    pub loras: Option<PathBuf>,
    /// What clients must know.
    pub token: Option<String>,
    /// What requests may ask for and send.
    pub limits: Limits,
    /// Takes messages for whoever runs the server.
    pub note: fn(&str),
}

impl ServeOptions {
    /// Local, without a token, with its files in this folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 8188,
            listener: None,
            data: data.into(),
            loras: None,
            token: None,
            limits: Limits::default(),
            note: |_| {},
        }
    }

    /// Whether a server may work so, before anything is loaded for it; [`Server::bind`] asks, too.
    ///
    /// # Errors
    /// [`ServeError::NoToken`] and [`ServeError::Token`].
    pub fn check(&self) -> Result<(), ServeError> {
        if !self.host.is_loopback() && self.token.is_none() {
            let address = SocketAddr::new(self.host, self.port);
            return Err(ServeError::NoToken(address.to_string()));
        }
        match self.token.as_deref().is_none_or(is_token) {
            true => Ok(()),
            false => Err(ServeError::Token),
        }
    }
}

/// What requests and workers share.
pub(crate) struct App {
    pub(crate) studio: Arc<dyn Studio>,
    pub(crate) about: About,
    pub(crate) limits: Limits,
    pub(crate) data: Data,
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) library: Library,
    pub(crate) metrics: Metrics,
    pub(crate) bell: Bell,
    /// Held while an upload is decoded.
    pub(crate) decoding: Arc<Semaphore>,
    pub(crate) token: Option<String>,
    /// Whether no more jobs are begun: a worker broke, and this process makes no other.
    pub(crate) broken: AtomicBool,
    note: fn(&str),
}

impl App {
    /// Whether workers take no more jobs.
    pub(crate) fn is_ending(&self) -> bool {
        self.hub.is_stopping() || self.broken.load(Ordering::SeqCst)
    }

    pub(crate) fn note(&self, message: &str) {
        (self.note)(message);
    }
}

/// Why a server has ended.
#[derive(Debug)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// A worker broke, and this process makes no other ([`Studio::outlives_faults`]). Who connects meanwhile is
    /// answered by the server that [goes on](ServeOptions::listener) with this.
    Broken(TcpListener),
}

/// A server that listens already.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Opens the folder, puts jobs back into the queue that an earlier server has begun and not ended, and
    /// listens; nothing is answered or made yet.
    ///
    /// # Errors
    /// [`ServeError`]: a folder that cannot be used or is used by another server, an address that cannot
    /// be listened on, or one that others reach without a token.
    pub fn bind(options: ServeOptions, studio: Arc<dyn Studio>) -> Result<Self, ServeError> {
        options.check()?;
        let asked = SocketAddr::new(options.host, options.port);
        let data = Data::open(&options.data)?;
        let store = Store::open(&data.database())?;
        for id in store.recover(|id| data.files(id))? {
            // Whatever is wrong with the file shows when it is fetched.
            let _ = finish(&data.files(&id));
        }
        data.sweep(|id| Ok(store.get(id)?.is_some()))?;
        let listen = || {
            let listener = match options.listener {
                Some(listener) => listener,
                None => TcpListener::bind(asked)?,
            };
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|cause| ServeError::Address {
            address: asked.to_string(),
            cause,
        })?;
        let library = Library::new(studio.clone(), options.loras, data.adapters());
        let app = App {
            about: studio.about(),
            studio,
            limits: options.limits,
            data,
            store,
            hub: Arc::new(Hub::new()),
            library,
            metrics: Metrics::default(),
            bell: Bell::default(),
            decoding: Arc::new(Semaphore::new(DECODING)),
            token: options.token,
            broken: AtomicBool::new(false),
            note: options.note,
        };
        Ok(Self {
            app: Arc::new(app),
            listener,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests and makes videos until `stop` is set. What is being made then stops at its next
    /// step and waits for the next start.
    ///
    /// # Errors
    /// [`ServeError::Io`] when the system gives no threads.
    pub fn run(self, stop: &AtomicBool) -> Result<Ended, ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .worker_threads(2)
            .build()
            .map_err(ServeError::io("threads"))?;
        let Self { app, listener, .. } = self;
        let kept = listener.try_clone().map_err(ServeError::io("network"))?;
        let workers: Vec<_> = (0..app.about.devices.len().max(1))
            .map(|number| {
                let app = app.clone();
                let name = format!("worker-{number}");
                thread::Builder::new()
                    .name(name)
                    .spawn(move || work(&app, number))
            })
            .collect::<Result<_, _>>()
            .map_err(ServeError::io("threads"))?;
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let hub = app.hub.clone();
            let (answering, stopping) = (app.clone(), hub.stopping());
            let serve = tokio::spawn(async move {
                let router = router(answering.clone());
                serve(listener, router, &answering.limits, stopping).await;
            });
            let working = || !workers.iter().all(thread::JoinHandle::is_finished);
            while !stop.load(Ordering::SeqCst) && !serve.is_finished() && working() {
                tokio::time::sleep(GLANCE).await;
            }
            hub.stop();
            // Whoever does not take its answer is left.
            let _ = tokio::time::timeout(PATIENCE, serve).await;
            Ok(())
        });
        app.hub.stop();
        app.bell.ring();
        for worker in workers {
            // Panics of jobs are caught in the thread.
            let _ = worker.join();
        }
        runtime.shutdown_timeout(GLANCE);
        served.map_err(ServeError::io("network"))?;
        let broken = app.broken.load(Ordering::SeqCst) && !stop.load(Ordering::SeqCst);
        Ok(match broken {
            true => Ended::Broken(kept),
            false => Ended::Stopped,
        })
    }
}

/// Whether a header, a cookie and an address can carry a token, and nobody guesses it.
fn is_token(token: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~".contains(&c);
    (8..=200).contains(&token.len()) && token.bytes().all(plain)
}
