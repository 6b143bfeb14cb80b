//! Signs of life of a process: its lock files are written to while it works.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

/// Signs of life of all claims, from a thread of its own.
pub struct Heartbeat {
    files: Arc<Mutex<Vec<(usize, File)>>>,
    /// Numbers the files.
    next: AtomicUsize,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A file that is written to.
pub struct Beating {
    files: Arc<Mutex<Vec<(usize, File)>>>,
    number: usize,
}

impl Heartbeat {
    pub fn start(every: Duration) -> Self {
        let files: Arc<Mutex<Vec<(usize, File)>>> = Arc::default();
        let (end, ended) = channel();
        let beaten = files.clone();
        let thread = spawn(move || {
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let mut files = beaten.lock().unwrap_or_else(PoisonError::into_inner);
                for (_, file) in files.iter_mut() {
                    // What was there already: an object begins so. A failure shows when the claim is lost.
                    let _ = file
                        .seek(SeekFrom::Start(0))
                        .and_then(|_| file.write_all(b"{"))
                        .and_then(|()| file.sync_data());
                }
            }
        });
        Self {
            files,
            next: AtomicUsize::new(0),
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub fn add(&self, file: File) -> Beating {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.push((number, file));
        Beating {
            files: self.files.clone(),
            number,
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It only writes.
            let _ = thread.join();
        }
    }
}

impl Beating {
    pub fn stop(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|(number, _)| *number != self.number);
    }
}
