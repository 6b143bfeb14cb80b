//! What a run tells while it works.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{DataSummary, TrainError};

/// One optimiser step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The step, from 1.
    pub step: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Mean loss of the step's samples.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm over all gradients before clipping.
    pub gradient_norm: f64,
    /// Steps per second in this process.
    pub steps_per_second: f64,
    /// Seconds to go at this speed.
    pub seconds_left: f64,
}

/// Hears of what a run does. Every method does nothing by default.
#[allow(unused_variables)]
pub trait TrainObserver {
    /// `done` of `total` clips or captions are in the cache.
    fn caching(&mut self, what: &str, done: usize, total: usize) {}
    /// A broken clip is left out.
    fn skipped(&mut self, problem: &TrainError) {}
    /// What will be trained on, before it is.
    fn data(&mut self, summary: &DataSummary) {}
    /// Something is not as it should be, and the run goes on.
    fn warned(&mut self, message: &str) {}
    /// The run continues after this step; `changed` are settings that are not those it began with.
    fn resumed(&mut self, step: usize, changed: &[String]) {}
    /// A step is done.
    fn step(&mut self, progress: &StepReport) {}
    /// Mean validation loss after a step.
    fn validated(&mut self, step: usize, loss: f64) {}
    /// A file or folder was written.
    fn saved(&mut self, path: &Path) {}
}

/// Tells nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl TrainObserver for Quiet {}

/// An error if the run is to end.
pub(crate) fn stop(interrupt: &AtomicBool) -> Result<(), TrainError> {
    match interrupt.load(Ordering::Relaxed) {
        true => Err(TrainError::Interrupted),
        false => Ok(()),
    }
}
