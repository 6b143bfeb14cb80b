//! The LongCat-Video diffusion transformer on Burn.
//!
//! - [`LongCatTransformer`]: the network; [`DitConfig`]: its official `dit/config.json`;
//! - [`TextCondition`], [`KvCache`]: what a forward pass is conditioned on;
//! - [`ParallelTransformer`]: the network on several devices at once;
//! - [`RopeTables`]: rotary tables of a token grid;
//! - [`canonical_names`] maps official keys to module paths, [`lora_targets`] describes the layers
//!   that adapters attach to.
//!
//! Source: `longcat_video/modules/longcat_video_dit.py` of the official code.

mod attention;
mod block;
mod config;
mod embed;
mod error;
mod kv_cache;
mod names;
mod norm;
mod parallel;
mod rope;
mod text;
mod transformer;

pub use attention::{CrossAttention, SelfAttention};
pub use block::{Block, BlockContext, FeedForward};
pub use config::DitConfig;
pub use embed::{CaptionEmbedder, FinalLayer, PatchEmbed, TimestepEmbedder};
pub use error::DitError;
pub use kv_cache::KvCache;
pub use names::{canonical_names, from_fastvideo, internal_names, lora_targets};
pub use parallel::{ParallelTransformer, forward_samples, transfer};
pub use rope::{RopeCache, RopeTables};
pub use text::{TextCondition, TextTokens};
pub use transformer::{Embedded, LongCatTransformer};
