//! The LongCat-Video diffusion transformer on Burn.
//!
//! - [`LongCatTransformer`]: the network; [`DitConfig`]: its official `dit/config.json`;
//! - [`TextCondition`], [`KvCache`]: what a forward pass is conditioned on;
//! - [`ParallelTransformer`]: the network on several devices at once;
//! - [`canonical_names`] maps official keys to module paths, [`lora_targets`] describes the layers
//!   that adapters attach to.
//!
//! Source: `longcat_video/modules/longcat_video_dit.py` of the official code.
//!
//! One prediction of a small network with random weights; [`LongCatTransformer::load`] reads those
//! of an official `dit/` directory:
//!
//! ```
//! use burn::tensor::{Distribution, Tensor};
//! use burn_flex::{Flex, FlexDevice};
//! use longcat_dit::{DitConfig, DitError, LongCatTransformer, TextCondition};
//!
//! # fn main() -> Result<(), DitError> {
//! let config = DitConfig {
//!     hidden_size: 16,
//!     depth: 1,
//!     num_heads: 2,
//!     caption_channels: 8,
//!     adaln_tembed_dim: 16,
//!     frequency_embedding_size: 16,
//!     ..DitConfig::default()
//! };
//! let model = LongCatTransformer::<Flex>::new(&config, &FlexDevice);
//!
//! // Two latent frames of 4x4 positions at timestep 500 of 1000, and three text tokens.
//! let normal = Distribution::Normal(0.0, 1.0);
//! let latents = Tensor::random([1, config.in_channels, 2, 4, 4], normal, &FlexDevice);
//! let timesteps = Tensor::full([1, 2], 500.0, &FlexDevice);
//! let text = TextCondition {
//!     embeds: Tensor::zeros([1, 3, config.caption_channels], &FlexDevice),
//!     mask: None,
//! };
//! let prediction = model.forward(latents, timesteps, &text, 0)?;
//! assert_eq!(prediction.dims(), [1, config.out_channels, 2, 4, 4]);
//! # Ok(())
//! # }
//! ```

mod attention;
mod block;
mod config;
mod embed;
mod error;
mod in_turn;
mod input;
mod kv_cache;
mod layout;
mod names;
mod norm;
mod parallel;
mod pieces;
mod products;
mod rope;
mod text;
mod transformer;

pub use block::{Block, BlockContext};
pub use config::DitConfig;
pub use error::DitError;
pub use in_turn::BlocksInTurn;
pub use kv_cache::KvCache;
pub use layout::{TransformerLayout, kijai_names, official_weights, transformer_layout};
pub use longcat_kernels::streamed_blocks;
pub use names::{
    canonical_names, from_fastvideo, internal_names, lora_targets, official_tensors, packable,
};
pub use parallel::ParallelTransformer;
pub use pieces::TokenPieces;
pub use products::Fp8Layers;
pub use rope::RopeTables;
pub use text::{TextCondition, TextTokens};
pub use transformer::{Embedded, LongCatTransformer};
