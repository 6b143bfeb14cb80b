//! The Wan 2.1 video VAE on Burn.
//!
//! - [`WanVae`]: pixels to latents and back, loaded from an official `vae/` directory;
//! - [`WanVaeConfig`]: the keys of `vae/config.json`;
//! - [`Posterior`], [`LatentDraw`]: what the encoder predicts, and how latents are taken from it;
//! - [`DecodeChunks`], [`EncodeStream`]: clip by clip, in memory that does not grow with the length;
//! - [`VaeOptions`], [`Tiling`], [`ChunkProgress`]: how a clip is cut, and what is told meanwhile.

mod blocks;
mod cache;
mod config;
mod decoder;
mod encoder;
mod error;
mod layers;
mod names;
mod options;
mod posterior;
mod resample;
mod stream;
mod tiling;
mod vae;

pub use config::WanVaeConfig;
pub use error::VaeError;
pub use names::{canonical_names, internal_names};
pub use options::{ChunkProgress, Tiling, VaeOptions};
pub use posterior::{LatentDraw, Posterior};
pub use stream::{DecodeChunks, EncodeStream};
pub use vae::WanVae;
