//! Safetensors checkpoints for Burn modules.
//!
//! - [`WeightFiles`]: one safetensors file, or a directory of shards with an index, memory-mapped;
//! - [`NameMap`]: an ordered regex table from file keys to module paths;
//! - [`load_module`]: strict application onto a Burn module, with a [`LoadReport`];
//! - [`JsonConfig`], [`ConfigError`]: reading the `config.json` beside the weights;
//! - [`upload`]: data onto a device in one piece;
//! - [`write_safetensors`]: atomic writing (temporary name, then rename).

mod cast;
mod config;
mod error;
mod files;
mod fill;
mod load;
mod names;
mod upload;
mod write;

pub use cast::cast_module;
pub use config::{ConfigError, JsonConfig};
pub use error::WeightsError;
pub use files::{TensorInfo, WeightFiles};
pub use load::{LoadOptions, LoadReport, load_module};
pub use names::NameMap;
pub use upload::upload;
pub use write::{NamedTensor, collect_module, write_atomic, write_safetensors};
