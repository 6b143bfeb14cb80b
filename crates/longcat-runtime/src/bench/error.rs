//! What can go wrong in a measurement.

use std::path::PathBuf;

use longcat_dit::DitError;
use longcat_train::TrainError;
use longcat_vae::VaeError;
use longcat_weights::WeightsError;

use crate::RuntimeError;

/// What can go wrong in a measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(&'static str),
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The device cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The transformer.
    #[error(transparent)]
    Dit(#[from] DitError),
    /// The VAE.
    #[error(transparent)]
    Vae(#[from] VaeError),
    /// Training.
    #[error(transparent)]
    Train(Box<TrainError>),
    /// Weight files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A config could not be written.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl From<TrainError> for BenchError {
    fn from(error: TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}
