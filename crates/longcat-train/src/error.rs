//! What can go wrong.

use std::path::{Path, PathBuf};

use longcat_dit::DitError;
use longcat_kernels::DeviceError;
use longcat_lora::LoraError;
use longcat_video::VideoError;
use longcat_video::media::MediaError;
use longcat_weights::WeightsError;

use crate::RankError;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The training configuration cannot work.
    #[error("{path}: {key}: {reason}")]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The key, with its table (`lora.rank`).
        key: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A tensor of a batch has a shape that does not fit.
    #[error("{input} has shape {found:?}: {expected}")]
    Shape {
        /// Which tensor.
        input: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What is needed.
        expected: String,
    },
    /// A clip, caption or list cannot be used.
    #[error("{path}: {reason}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A clip cannot be read or encoded.
    #[error("clip {path}: {cause}")]
    Clip {
        /// The clip.
        path: PathBuf,
        /// The cause.
        cause: Box<TrainError>,
    },
    /// A saved state cannot be continued from.
    #[error("{path}: {reason}")]
    State {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another run writes to the same folder.
    #[error(
        "{path}: another run{holder} writes here; wait until it ends, stop it, or choose another \
         output"
    )]
    Busy {
        /// The output folder.
        path: PathBuf,
        /// ` (process 123)`, where it is known.
        holder: String,
    },
    /// Clips and repeats make an epoch that cannot be counted.
    #[error("an epoch has more than 2^63 samples; lower data.repeats or the repeats of the list")]
    EpochTooLong,
    /// Interrupted before training began.
    #[error("interrupted")]
    Interrupted,
    /// No parameter requires gradients.
    #[error("nothing is trained: no parameter of the model requires gradients")]
    NothingTrained,
    /// Loss or gradients are no longer numbers.
    #[error(
        "step {step}: {what} is {value} (clips: {}); lower optimizer.learning_rate or \
         optimizer.max_grad_norm, or leave out these clips if they are broken",
        clips.join(", ")
    )]
    NotFinite {
        /// The step, from 1; that of a validation loss may be 0.
        step: usize,
        /// Loss, or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The clips that it came from.
        clips: Vec<String>,
    },
    /// The device failed to hand values over.
    #[error("reading {what} from the device: {reason}")]
    Device {
        /// What was read.
        what: String,
        /// The backend's words.
        reason: String,
    },
    /// Of several ranks, another one failed, or they were not started alike.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// A device failed; nothing that it made since then is used.
    #[error(transparent)]
    Failed(#[from] DeviceError),
    /// The transformer.
    #[error(transparent)]
    Dit(#[from] DitError),
    /// An adapter.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// Checkpoint directory, VAE or text encoder.
    #[error(transparent)]
    Video(Box<VideoError>),
    /// Video and image files.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Weight files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl From<VideoError> for TrainError {
    fn from(error: VideoError) -> Self {
        match error {
            VideoError::Device(error) => Self::Failed(error),
            error => Self::Video(Box::new(error)),
        }
    }
}

impl TrainError {
    /// A file that could not be read or written.
    pub fn io(path: impl Into<PathBuf>, cause: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            cause,
        }
    }

    /// The same, after this step.
    pub(crate) fn after_step(mut self, now: usize) -> Self {
        if let Self::NotFinite { step, .. } = &mut self {
            *step = now;
        }
        self
    }

    /// The same, with the name of the clip it happened to.
    pub fn of_clip(self, clip: &Path) -> Self {
        match self {
            Self::Data { .. } | Self::Interrupted | Self::Clip { .. } => self,
            cause => Self::Clip {
                path: clip.to_path_buf(),
                cause: Box::new(cause),
            },
        }
    }

    /// Whether leaving the clip out would help.
    pub(crate) fn is_about_a_clip(&self) -> bool {
        match self {
            Self::Data { .. } => true,
            Self::Clip { cause, .. } => matches!(
                **cause,
                Self::Media(_) | Self::Data { .. } | Self::Io { .. } | Self::Video(_)
            ),
            _ => false,
        }
    }
}
