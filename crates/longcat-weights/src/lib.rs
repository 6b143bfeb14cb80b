//! Checkpoints for Burn modules: safetensors, GGUF and PyTorch's files, whole or packed.
//!
//! - [`WeightFiles`]: one file, or a directory of shards with an index, memory-mapped;
//! - [`StoredTensor`]: a tensor as the file holds it (floats, fp8, int8, GGUF's blocks) with its scale,
//!   and unpacking it; [`quantize`]: packing one;
//! - [`NameMap`]: an ordered table of regular expressions from file keys to module paths;
//!   [`KIJAI_LAYERS`]: the layer names of ComfyUI's files;
//! - [`load_module`]: strict loading of a Burn module, with a [`LoadReport`]; [`check_module`] tells
//!   the same beforehand;
//! - [`JsonConfig`], [`ConfigError`]: reading the `config.json` beside the weights;
//! - [`Weight`]: the matrix of a linear layer, which need not be a parameter;
//! - [`upload`]: host data to a device in one copy;
//! - [`other_model`]: whose weights a file holds, if it is a known model's;
//! - [`stream_weights`]: tensors to a safetensors or GGUF file one after another;
//! - [`collect_module`], [`write_safetensors`]: a module to a file, written under a temporary name
//!   and then renamed.
//!
//! A checkpoint calls a layer `mlp.0`, the module calls it `fc`:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::backend::Backend;
//! use burn::tensor::{Tensor, TensorData};
//! use burn_flex::{Flex, FlexDevice};
//! use longcat_weights::{
//!     LoadOptions, NameMap, NamedTensor, WeightFiles, load_module, write_safetensors,
//! };
//!
//! #[derive(Module, Debug)]
//! struct Net<B: Backend> {
//!     fc: Linear<B>,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("net.safetensors");
//! let tensors = [
//!     ("mlp.0.weight", TensorData::from([[1.0f32, 2.0, 3.0]])),
//!     ("mlp.0.bias", TensorData::from([0.5f32])),
//! ]
//! .map(|(name, data)| NamedTensor { name: name.into(), data });
//! write_safetensors(&path, &tensors, &BTreeMap::new())?;
//!
//! let mut net = Net::<Flex> { fc: LinearConfig::new(3, 1).init(&FlexDevice) };
//! let files = WeightFiles::open(&path)?;
//! let names = NameMap::new(&[(r"^mlp\.0\.", "fc.")]);
//! let report = load_module::<Flex, _>(&mut net, &files, &names, &LoadOptions::default())?;
//! assert_eq!(report.applied, ["fc.bias", "fc.weight"]);
//!
//! let x = Tensor::<Flex, 2>::from_floats([[1.0, 1.0, 1.0]], &FlexDevice);
//! assert_eq!(net.fc.forward(x).into_scalar(), 6.5);
//! # Ok(())
//! # }
//! ```

mod cast;
mod config;
mod error;
mod files;
mod fill;
mod finite;
mod format;
mod load;
mod names;
mod other_models;
mod packing;
mod precision;
mod printable;
mod renamed;
mod requantize;
mod scales;
mod stored;
mod stream;
mod upload;
mod weight;
mod write;

pub use cast::cast_module;
pub use config::{ConfigError, JsonConfig};
pub use error::WeightsError;
pub use files::{TensorInfo, WeightFiles};
pub use load::{LoadOptions, LoadReport, WeightHost, check_module, load_host, load_module};
pub use names::{KIJAI_LAYERS, NameMap};
pub use other_models::other_model;
pub use packing::KeptMatrix;
pub use precision::{LoadAs, Precision};
pub use printable::printable;
pub use requantize::{PackingError, requantize};
pub use stored::{Quantization, Quantized, Scale, StoredPart, StoredTensor, StoredType, quantize};
pub use stream::{PlannedTensor, stream_weights};
pub use upload::upload;
pub use weight::Weight;
pub use write::{NamedTensor, collect_module, write_atomic, write_safetensors};
