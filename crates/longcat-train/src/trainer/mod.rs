//! The training loop, whatever is trained.

mod folder;
mod metrics;
mod plot;
mod resume;
mod run;
mod schedule;
mod share;
mod state;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::module::Module;

use crate::{Gradients, TrainBackend, TrainError};

pub(crate) use resume::differences;

pub use folder::OutputFolder;
pub use metrics::{Metric, read_metrics};
pub use run::{Outcome, Trainer};
pub use state::Position;

/// Which weights of a run are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Those of the last step.
    Last,
    /// Their running average.
    Average,
}

impl Weights {
    /// What the name of a file or folder ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Last => "",
            Self::Average => "-average",
        }
    }
}

/// What is trained, on what, and what is written out.
pub trait Task<B: TrainBackend> {
    /// The module with the trained parameters.
    type Model: Module<B>;

    /// Batches in one pass over the data.
    fn batches_per_epoch(&self) -> usize;

    /// Mean loss and gradients of batch number `index` of the run. Equal numbers give equal
    /// results.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn gradients(
        &self,
        model: &Self::Model,
        index: u64,
    ) -> Result<(f64, Gradients<B::InnerBackend>), TrainError>;

    /// The clips of batch number `index`, for messages.
    #[allow(unused_variables)]
    fn clips(&self, index: u64) -> Vec<String> {
        Vec::new()
    }

    /// Mean validation loss per noise level.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`], and whatever stops the run.
    fn validate(
        &self,
        model: &Self::Model,
        interrupt: &AtomicBool,
    ) -> Result<Vec<(f64, f64)>, TrainError>;

    /// Writes the trained part into a folder, under a name of the task's own that ends in
    /// [`Weights::suffix`] before any file ending.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn export(
        &self,
        model: &Self::Model,
        folder: &Path,
        weights: Weights,
        position: &Position,
    ) -> Result<(), TrainError>;

    /// Writes samples into a folder.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`], and whatever stops the run.
    fn sample(
        &self,
        model: &Self::Model,
        folder: &Path,
        interrupt: &AtomicBool,
    ) -> Result<(), TrainError>;
}
