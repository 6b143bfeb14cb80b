use std::path::PathBuf;

use longcat_weights::WeightsError;

/// What can be wrong with a VAE or its inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaeError {
    /// A file could not be read.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The config is malformed, or a value is absent, of the wrong type or inconsistent.
    #[error("{path}: {reason}")]
    InvalidConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key.
        reason: String,
    },
    /// A key asks for another network than this one.
    #[error("{path}: {key} = {value} is not supported; only {supported} is")]
    UnsupportedConfig {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// A key that is not known, and so may change behaviour.
    #[error(
        "{path}: unknown key {key}; it may change what the network computes, so remove it only if it does not"
    )]
    UnknownConfigKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
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
