//! The UMT5 text encoder, its tokenizer and prompt cleaning on Burn.
//!
//! - [`TextEncoder`]: prompts in, embeddings and masks out;
//! - [`PromptTokenizer`]: `tokenizer/tokenizer.json`, padding and truncation;
//! - [`Umt5Encoder`] and [`Umt5Config`]: the network of `text_encoder/`;
//! - [`clean_prompt`]: what happens to a prompt before it is tokenized.
//!
//! Source: `UMT5EncoderModel` of Hugging Face transformers, and the pipeline of the official code.
//!
//! [`TextEncoder::load`] reads a checkpoint's `tokenizer/` and `text_encoder/`. Its parts, with a
//! small network of random weights:
//!
//! ```
//! use burn::tensor::Tensor;
//! use burn_flex::{Flex, FlexDevice};
//! use longcat_text::{Umt5Config, Umt5Encoder, clean_prompt};
//!
//! assert_eq!(clean_prompt(" schÃ¶n &amp;  naÃ¯ve\n"), "schön & naïve");
//!
//! let config = Umt5Config {
//!     vocab_size: 16,
//!     d_model: 8,
//!     d_kv: 4,
//!     d_ff: 16,
//!     num_layers: 1,
//!     num_heads: 2,
//!     relative_attention_num_buckets: 32,
//!     relative_attention_max_distance: 128,
//!     layer_norm_epsilon: 1e-6,
//! };
//! let encoder = Umt5Encoder::<Flex>::new(&config, &FlexDevice);
//! // Two tokens of a prompt, the final `</s>`, padding.
//! let ids = Tensor::from_data([[5, 3, 1, 0]], &FlexDevice);
//! let mask = Tensor::from_data([[true, true, true, false]], &FlexDevice);
//! let states = encoder.forward(ids, mask);
//! assert_eq!(states.dims(), [1, 4, config.d_model]);
//! ```

mod clean;
mod config;
mod encoder;
mod error;
mod layers;
mod layout;
mod load;
mod position;
mod sentence_piece;
mod table;
mod text_encoder;
mod tokenizer;

pub use clean::clean_prompt;
pub use config::Umt5Config;
pub use encoder::Umt5Encoder;
pub use error::TextError;
pub use layout::{TextEncoderLayout, carries_tokenizer, official_weights, text_encoder_layout};
pub use load::{canonical_names, internal_names, is_packable};
pub use text_encoder::TextEncoder;
pub use tokenizer::{PromptTokenizer, Tokens};
