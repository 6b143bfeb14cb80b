//! What can go wrong between a request and a video.

use std::path::PathBuf;

use longcat_dit::DitError;
use longcat_kernels::{DeviceError, DeviceFault, Stage};
use longcat_lora::LoraError;
use longcat_text::TextError;
use longcat_vae::VaeError;
use longcat_weights::{ConfigError, WeightsError};

use crate::media::MediaError;
use crate::memory::DoesNotFit;

/// What can go wrong between a request and a video.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// A config file cannot be read or asks for another model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of latents or frames holds something else.
    #[error("{path}: {reason}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What it holds and what is expected.
        reason: String,
    },
    /// A checkpoint directory lacks a part.
    #[error(
        "{path}: no {component} here; a LongCat-Video checkpoint has tokenizer/, text_encoder/, \
         vae/, scheduler/ and dit/ (or FastVideo's transformer/), or single files of these; name those that \
         lie elsewhere with --tokenizer, --text-encoder, --vae and --dit"
    )]
    MissingComponent {
        /// The checkpoint directory.
        path: PathBuf,
        /// The absent folder.
        component: String,
    },
    /// A request holds a value that cannot work.
    #[error("{what}: {reason}")]
    Invalid {
        /// The field, as the command line calls it.
        what: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A request takes more memory than may be taken, whatever is done.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// Latents overflowed.
    #[error(
        "step {step} of {total} made numbers that are not finite; lower the strength of the adapters, \
         or compute in a wider type (bf16 or f32)"
    )]
    NotFinite {
        /// The step, from 1.
        step: usize,
        /// Steps of the schedule.
        total: usize,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A device failed; nothing that it made since then is used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The transformer.
    #[error(transparent)]
    Dit(#[from] DitError),
    /// An adapter.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The text encoder or tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The VAE.
    #[error(transparent)]
    Vae(#[from] VaeError),
    /// Weight files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Video and image files.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl VideoError {
    pub(crate) fn io(path: impl Into<PathBuf>, cause: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            cause,
        }
    }

    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            reason: reason.into(),
        }
    }

    /// A tensor that could not be read back.
    pub(crate) fn read_back(words: impl ToString) -> Self {
        Self::Device(DeviceError {
            stage: Stage::Saving,
            fault: DeviceFault::new(&words.to_string()),
        })
    }
}
