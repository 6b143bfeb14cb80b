//! The UMT5 text encoder, its tokenizer and prompt cleaning on Burn.
//!
//! - [`TextEncoder`]: prompts in, embeddings and masks out;
//! - [`PromptTokenizer`]: `tokenizer/tokenizer.json`, padding and truncation;
//! - [`Umt5Encoder`] and [`Umt5Config`]: the network of `text_encoder/`;
//! - [`clean_prompt`]: what happens to a prompt before it is tokenized.

mod clean;
mod config;
mod encoder;
mod error;
mod layers;
mod load;
mod position;
mod text_encoder;
mod tokenizer;

pub use clean::clean_prompt;
pub use config::Umt5Config;
pub use encoder::Umt5Encoder;
pub use error::TextError;
pub use load::{internal_names, name_map};
pub use text_encoder::TextEncoder;
pub use tokenizer::{PromptTokenizer, Tokens};
