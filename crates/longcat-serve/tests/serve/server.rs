//! Servers with the fake studio: in this process, or in one of their own that can be killed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use longcat_serve::{Ended, Limits, ServeError, ServeOptions, Server};
use tempfile::TempDir;

use crate::client::{Client, PATIENCE};
use crate::fake::Fake;

/// A studio that is as quick as it can be.
pub fn quick() -> Fake {
    Fake {
        pause: Duration::ZERO,
        devices: 1,
        log: None,
        refuses: false,
        outlives_faults: true,
        pulled: None,
    }
}

/// A server in this process.
pub struct Local {
    pub address: SocketAddr,
    pub folder: Arc<TempDir>,
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<Result<Ended, ServeError>>>,
}

impl Local {
    pub fn start(fake: Fake) -> Self {
        Self::with(fake, |_| {})
    }

    pub fn with(fake: Fake, change: impl FnOnce(&mut ServeOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        Self::again(Arc::new(folder), fake, change)
    }

    /// On a folder that another server had.
    pub fn again(folder: Arc<TempDir>, fake: Fake, change: impl FnOnce(&mut ServeOptions)) -> Self {
        let mut options = ServeOptions {
            port: 0,
            ..ServeOptions::new(folder.path().join("data"))
        };
        change(&mut options);
        let server = Server::bind(options, Arc::new(fake));
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        let address = server.address();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Self {
            address,
            folder,
            stop,
            running: Some(spawn(move || server.run(&stopped))),
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Stops it as Ctrl-C does.
    pub fn stop(mut self) -> Arc<TempDir> {
        self.end();
        self.folder.clone()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(
                matches!(ended, Ok(Ok(Ended::Stopped))) || std::thread::panicking(),
                "{ended:?}"
            );
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end();
    }
}

/// A server in a process of its own.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts one on a folder, at a port that an earlier one may have had.
    pub fn start(folder: &Path, port: u16, queue: usize, pause: u64) -> Self {
        let told = folder.join("address");
        let _ = fs::remove_file(&told);
        let this = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
        let child = Command::new(this)
            .args(["--exact", "server::in_a_process_of_its_own", "--ignored"])
            .env(FOLDER, folder)
            .env("FAKE_PORT", port.to_string())
            .env("FAKE_QUEUE", queue.to_string())
            .env("FAKE_PAUSE", pause.to_string())
            // Else every thread that works for a while takes memory of its own from glibc, for good.
            .env("MALLOC_ARENA_MAX", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut process = Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            child: child.unwrap_or_else(|error| panic!("{error}")),
        };
        let begun = Instant::now();
        loop {
            let address = fs::read_to_string(&told).ok();
            if let Some(address) = address.and_then(|text| text.parse().ok()) {
                process.address = address;
                return process;
            }
            assert!(begun.elapsed() < PATIENCE, "the server does not start");
            sleep(Duration::from_millis(5));
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

const FOLDER: &str = "FAKE_FOLDER";

#[test]
#[ignore = "the process of other tests"]
fn in_a_process_of_its_own() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let number = |name: &str| -> u64 {
        let text = std::env::var(name).unwrap_or_default();
        text.parse()
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let fake = Fake {
        pause: Duration::from_millis(number("FAKE_PAUSE")),
        log: Some(folder.join("log")),
        ..quick()
    };
    let options = ServeOptions {
        port: number("FAKE_PORT") as u16,
        limits: Limits {
            queue: number("FAKE_QUEUE") as usize,
            ..Limits::default()
        },
        ..ServeOptions::new(folder.join("data"))
    };
    let server = Server::bind(options, Arc::new(fake));
    let server = server.unwrap_or_else(|error| panic!("{error}"));
    let temporary = folder.join("address.partial");
    let told = fs::write(&temporary, server.address().to_string());
    told.and_then(|()| fs::rename(temporary, folder.join("address")))
        .unwrap_or_else(|error| panic!("{error}"));
    server
        .run(&AtomicBool::new(false))
        .unwrap_or_else(|error| panic!("{error}"));
}
