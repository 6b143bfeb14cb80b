//! The error of this crate.

use longcat_weights::{ConfigError, WeightsError};

/// What can be wrong with a transformer's files or inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DitError {
    /// The config file cannot be read or asks for another network.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An input has the wrong shape.
    #[error("{input} has shape {found:?}: {expected}")]
    Shape {
        /// Name of the input.
        input: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What is needed.
        expected: String,
    },
    /// The number of condition frames does not fit the clip.
    #[error("{count} condition frames of {frames} latent frames: {expected}")]
    ConditionFrames {
        /// Condition frames asked for, in latent frames.
        count: usize,
        /// Latent frames of the clip.
        frames: usize,
        /// What is needed.
        expected: &'static str,
    },
    /// A prompt has no valid token although padding is dropped.
    #[error(
        "prompt {sample} of the batch has no valid text token; with text_tokens_zero_pad = false \
         at least one is needed"
    )]
    EmptyText {
        /// Index in the batch.
        sample: usize,
    },
    /// Block-sparse attention was asked for without parameters.
    #[error("block-sparse attention needs bsa_params, and the config has none")]
    NoBsaParams,
    /// The work cannot be dealt out to that many devices.
    #[error("{devices} devices cannot share {count} {what}: use fewer devices")]
    Devices {
        /// Number of devices.
        devices: usize,
        /// What they would share.
        what: &'static str,
        /// How many of it there are.
        count: usize,
    },
}
