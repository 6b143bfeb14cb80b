//! Who is told of jobs while they are made: progress, events, cancelling.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longcat_media::{VideoFrames, WriteOptions, write_video};
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use crate::progress::Progress;
use crate::studio::JobFiles;

/// Events that a slow listener may lag behind; after that it is told the state of its job anew, or, if it
/// follows all jobs, has to connect again.
const EVENTS: usize = 1024;
/// Parts of a stage are told no more often than this.
const PAUSE: Duration = Duration::from_millis(250);

/// Something that happened to a job.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: Arc<str>,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    /// Its state is another one.
    Status,
    /// It is gone.
    Removed,
    /// A step, as JSON.
    Step(Arc<str>),
    /// A preview, as JSON.
    Preview(Arc<str>),
}

/// A job that is being made.
#[derive(Debug, Default)]
struct Live {
    cancelled: AtomicBool,
    progress: Mutex<Progress>,
    /// When progress was told last.
    told: Mutex<Option<Instant>>,
}

/// All jobs that are being made, and who listens.
pub(crate) struct Hub {
    events: broadcast::Sender<Event>,
    live: Mutex<HashMap<String, Arc<Live>>>,
    stopping: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            events: broadcast::Sender::new(EVENTS),
            live: Mutex::default(),
            stopping: watch::Sender::new(false),
        }
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(crate) fn tell(&self, id: &str, what: What) {
        // Without listeners there is nobody to tell.
        let _ = self.events.send(Event {
            id: id.into(),
            what,
        });
    }

    /// What is known of the progress of a job, if it is being made.
    pub(crate) fn progress(&self, id: &str) -> Option<Progress> {
        let live = lock(&self.live).get(id).cloned()?;
        let progress = lock(&live.progress).clone();
        Some(progress)
    }

    /// Asks a job to stop at its next step.
    pub(crate) fn cancel(&self, id: &str) {
        if let Some(live) = lock(&self.live).get(id) {
            live.cancelled.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

/// Follows the making of a video, and says when to stop. Copies are for the same video.
#[derive(Clone)]
pub struct Watch {
    id: Arc<str>,
    files: JobFiles,
    hub: Arc<Hub>,
    live: Arc<Live>,
}

#[derive(Serialize)]
struct StepEvent<'a> {
    id: &'a str,
    stage: &'a str,
    step: usize,
    steps: usize,
    segment: Option<usize>,
    segments: Option<usize>,
    progress: f64,
    eta: Option<f64>,
}

#[derive(Serialize)]
struct PreviewEvent<'a> {
    id: &'a str,
    url: String,
    width: usize,
    height: usize,
    frames: usize,
}

impl Watch {
    pub(crate) fn new(id: &str, files: JobFiles, hub: Arc<Hub>) -> Self {
        let live = Arc::new(Live::default());
        lock(&hub.live).insert(id.to_string(), live.clone());
        Self {
            id: id.into(),
            files,
            hub,
            live,
        }
    }

    /// Nothing more will be told of.
    pub(crate) fn end(&self) {
        lock(&self.hub.live).remove(&*self.id);
    }

    /// Pass `index` (from 0) of `total` over the video begins: refining is a further one.
    pub fn pass(&self, index: usize, total: usize) {
        lock(&self.live.progress).pass(index, total);
    }

    /// Segment `index` (from 0) of the `total` of a long video begins.
    pub fn segment(&self, index: usize, total: usize) {
        lock(&self.live.progress).segment(index, total);
    }

    /// A stage begins: "text", "transformer", "denoise", "decode", …
    pub fn stage(&self, name: &str) {
        lock(&self.live.progress).stage(name);
        self.tell_step();
    }

    /// So many denoising steps of `total` are finished.
    pub fn step(&self, done: usize, total: usize) {
        lock(&self.live.progress).step(done, total);
        self.tell_step();
    }

    /// So many parts of `total` of a stage other than denoising are finished.
    pub fn progress(&self, done: usize, total: usize) {
        lock(&self.live.progress).part(done, total);
        let told = *lock(&self.live.told);
        if told.is_none_or(|told| told.elapsed() >= PAUSE) {
            self.tell_step();
        }
    }

    /// What the last step made, small: shown as a moving picture.
    pub fn preview(&self, frames: &VideoFrames) {
        // A video without its preview is still one.
        if write_video(&self.files.preview(), frames, &WriteOptions::default()).is_err() {
            return;
        }
        let number = lock(&self.live.progress).next_preview();
        let size = frames.size();
        let event = PreviewEvent {
            id: &self.id,
            url: format!("/v1/videos/{}/preview?step={number}", self.id),
            width: size.width,
            height: size.height,
            frames: frames.len(),
        };
        self.hub.tell(&self.id, What::Preview(to_json(&event)));
    }

    /// Whether to stop; asked before every step.
    pub fn cancelled(&self) -> bool {
        self.is_unwanted() || self.hub.is_stopping()
    }

    /// Whether a client has cancelled the job.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.live.cancelled.load(Ordering::SeqCst)
    }

    fn tell_step(&self) {
        *lock(&self.live.told) = Some(Instant::now());
        let progress = lock(&self.live.progress).clone();
        let event = StepEvent {
            id: &self.id,
            stage: progress.stage_name(),
            step: progress.done,
            steps: progress.total,
            segment: progress.segment_number(),
            segments: progress.segments(),
            progress: progress.percent(),
            eta: progress.eta(),
        };
        self.hub.tell(&self.id, What::Step(to_json(&event)));
    }
}

fn to_json(event: &impl Serialize) -> Arc<str> {
    let text = serde_json::to_string(event);
    text.unwrap_or_else(|e| unreachable!("text and numbers become JSON: {e}"))
        .into()
}
