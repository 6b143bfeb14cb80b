//! The training loop, whatever is trained.

mod metrics;
mod plot;
mod run;
mod schedule;
mod state;

use std::path::Path;

use burn::module::Module;

use crate::{Gradients, TrainBackend, TrainError};

pub use metrics::{Metric, read_metrics};
pub use run::{Outcome, Trainer};
pub use state::Position;

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

    /// Mean validation loss per noise level.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn validate(&self, model: &Self::Model) -> Result<Vec<(f64, f64)>, TrainError>;

    /// Writes the trained part into a folder, under a name without ending.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn export(
        &self,
        model: &Self::Model,
        folder: &Path,
        name: &str,
        position: &Position,
    ) -> Result<(), TrainError>;

    /// Writes samples into a folder.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn sample(&self, model: &Self::Model, folder: &Path) -> Result<(), TrainError>;
}
