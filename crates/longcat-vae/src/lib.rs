//! The Wan 2.1 video VAE on Burn.
//!
//! - [`WanVae`]: pixels to latents and back, loaded from an official `vae/` directory;
//! - [`WanVaeConfig`]: the keys of `vae/config.json`;
//! - [`LatentColours`]: latents as colours, without decoding them;
//! - [`Posterior`], [`LatentDraw`]: the Gaussian that the encoder predicts, and which latent is taken
//!   from it;
//! - [`DecodeChunks`], [`EncodeStream`]: a clip chunk by chunk, in memory that does not grow with its
//!   length;
//! - [`VaeOptions`], [`Tiling`], [`ChunkProgress`]: how a clip is cut, and what is reported meanwhile.
//!
//! Source: `AutoencoderKLWan` of diffusers.
//!
//! A small network with random weights; [`WanVae::load`] reads those of an official `vae/` directory:
//!
//! ```
//! use burn::tensor::Tensor;
//! use burn_flex::{Flex, FlexDevice};
//! use longcat_vae::{VaeError, WanVae, WanVaeConfig};
//!
//! # fn main() -> Result<(), VaeError> {
//! let config = WanVaeConfig {
//!     base_dim: 4,
//!     decoder_base_dim: 4,
//!     z_dim: 2,
//!     dim_mult: vec![1, 2],
//!     num_res_blocks: 1,
//!     temperal_downsample: vec![true],
//!     latents_mean: vec![0.0; 2],
//!     latents_std: vec![1.0; 2],
//!     scale_factor_spatial: 2,
//!     scale_factor_temporal: 2,
//!     ..WanVaeConfig::default()
//! };
//! let vae = WanVae::<Flex>::new(&config, &FlexDevice);
//!
//! // Five frames of 8x8 pixels in [-1, 1].
//! let video = Tensor::zeros([1, 3, 5, 8, 8], &FlexDevice);
//! let posterior = vae.encode(video)?;
//! let latents = vae.normalize(posterior.mean);
//! assert_eq!(latents.dims(), [1, 2, 3, 4, 4]);
//!
//! let video = vae.decode(latents)?;
//! assert_eq!(video.dims(), [1, 3, 5, 8, 8]);
//! # Ok(())
//! # }
//! ```

mod blocks;
mod cache;
mod colours;
mod config;
mod decoder;
mod encoder;
mod error;
mod layers;
mod layout;
mod names;
mod options;
mod posterior;
mod resample;
mod stream;
mod tiling;
mod vae;

pub use colours::LatentColours;
pub use config::WanVaeConfig;
pub use error::VaeError;
pub use layout::{VaeLayout, official_weights, vae_layout};
pub use names::{canonical_names, internal_names};
pub use options::{ChunkProgress, Tiling, VaeOptions};
pub use posterior::{LatentDraw, Posterior};
pub use stream::{DecodeChunks, EncodeStream};
pub use vae::WanVae;
