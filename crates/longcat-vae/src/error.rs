//! The error of this crate.

use longcat_weights::{ConfigError, WeightsError};

/// What can be wrong with a VAE or its inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaeError {
    /// The config file cannot be read or asks for another network.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights do not load.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor cannot be encoded or decoded.
    #[error("{what} of shape {shape:?}: {reason}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// What is expected.
        reason: String,
    },
    /// Chunk or tile sizes that make no sense.
    #[error("{option} = {value}: {reason}")]
    Options {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
        reason: String,
    },
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl VaeError {
    pub(crate) fn shape(what: &'static str, shape: [usize; 5], reason: impl Into<String>) -> Self {
        Self::Shape {
            what,
            shape: shape.to_vec(),
            reason: reason.into(),
        }
    }
}
