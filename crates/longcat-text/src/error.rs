//! The error of this crate.

use std::path::PathBuf;

use longcat_weights::{ConfigError, WeightsError};

/// What can be wrong with a text encoder or its tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A config file cannot be read, or asks for another network or tokenizer.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer file cannot be read.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The weights do not load.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer does not load.
    #[error("{path}: not a usable tokenizer: {reason}")]
    InvalidTokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A prompt could not be tokenized.
    #[error("the prompt {prompt:?} could not be tokenized: {reason}")]
    Tokenize {
        /// The prompt.
        prompt: String,
        /// The cause.
        reason: String,
    },
    /// The requested length leaves no room for the special tokens.
    #[error("max_length {max_length} is too short: the tokenizer adds {added} special token(s)")]
    MaxLengthTooShort {
        /// The requested length in tokens.
        max_length: usize,
        /// How many tokens are always added.
        added: usize,
    },
    /// The tokenizer can produce ids that the encoder has no embedding for.
    #[error(
        "{path}: the tokenizer has ids up to {largest_id}, the text encoder's vocab_size is {vocab_size}; they belong to different models"
    )]
    VocabularyMismatch {
        /// The tokenizer file.
        path: PathBuf,
        /// The largest id of the tokenizer.
        largest_id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// No prompt was given.
    #[error("no prompt to encode")]
    NoPrompts,
}
