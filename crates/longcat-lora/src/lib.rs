//! LoRA adapters for Burn: layers, a registry, every common file format, merging and reports.
//!
//! - [`LoraLinear`]: a linear layer with any number of adapters beside its weight;
//! - [`LoraHost`]: what a model implements, with its [`TargetTable`];
//! - [`Adapter`]: an adapter on the host; [`Adapter::read`] and [`Adapter::write`] know the
//!   [`Format`]s, [`AdapterReport::inspect`] says what a file holds;
//! - [`LayerScope`]: layers by name, to which [`Adapter::restrict`] keeps an adapter;
//! - [`LoraRegistry`]: adapters on a model, by name;
//! - [`LoraMerge`], [`merge_into_checkpoint`]: adapters inside the weights;
//! - [`LoraTraining`]: new adapters, and reading them back.
//!
//! A model of one layer, an adapter of rank 1, its strength changed, merged and taken out again:
//!
//! ```
//! use burn::tensor::Tensor;
//! use burn_flex::{Flex, FlexDevice};
//! use longcat_lora::{
//!     Adapter, Block, LoraError, LoraHost, LoraLinear, LoraLinearConfig, LoraMerge, LoraOptions,
//!     LoraRegistry, Matrix, Target, TargetTable,
//! };
//!
//! struct Model {
//!     proj: LoraLinear<Flex>,
//!     targets: TargetTable,
//! }
//!
//! impl LoraHost<Flex> for Model {
//!     fn visit_lora(&self, visit: &mut dyn FnMut(&str, &LoraLinear<Flex>)) {
//!         visit("proj", &self.proj);
//!     }
//!
//!     fn visit_lora_mut(&mut self, visit: &mut dyn FnMut(&str, &mut LoraLinear<Flex>)) {
//!         visit("proj", &mut self.proj);
//!     }
//!
//!     fn target_table(&self) -> &TargetTable {
//!         &self.targets
//!     }
//! }
//!
//! # fn main() -> Result<(), LoraError> {
//! let target = Target { name: "proj", parts: 1, split: &[] };
//! let mut model = Model {
//!     proj: LoraLinearConfig::new(2, 2).init(&FlexDevice),
//!     targets: TargetTable::new(&[target], &[]),
//! };
//! let x = Tensor::<Flex, 2>::from_floats([[1.0, 1.0]], &FlexDevice);
//! let base = model.proj.forward(x.clone());
//!
//! // Adds three times the first input to the second output. From a file: `Adapter::read`.
//! let mut adapter = Adapter::new("by hand");
//! let block = Block {
//!     part: 0,
//!     of: 1,
//!     down: Matrix::from_f32(1, 2, &[1.0, 0.0]),
//!     up: Matrix::from_f32(2, 1, &[0.0, 3.0]),
//!     scale: 1.0,
//! };
//! adapter.insert("proj", vec![block])?;
//! model.load_adapter("style", &adapter, LoraOptions::default())?;
//! model.set_adapter_strength("style", 0.5)?;
//! let beside = model.proj.forward(x.clone());
//! let change = (beside.clone() - base.clone()).sum().into_scalar();
//! assert!((change - 1.5).abs() < 1e-5);
//!
//! let originals = model.weights_to_merge()?;
//! model.merge_adapters()?;
//! let merged = model.proj.forward(x.clone());
//! assert!((merged - beside).abs().max().into_scalar() < 1e-5);
//!
//! model.unmerge_adapters(&originals)?;
//! model.set_adapter_enabled("style", false)?;
//! assert_eq!(model.proj.forward(x).into_data(), base.into_data());
//! # Ok(())
//! # }
//! ```

mod adapter;
mod attach;
mod beside;
mod checkpoint;
mod combine;
mod error;
mod format;
mod fresh;
mod host;
mod layer;
mod matrix;
mod merge;
mod packed_checkpoint;
mod patch;
mod registry;
mod report;
mod requantized;
mod scope;
mod svd;
mod targets;
mod terms;
mod vector;

pub use adapter::{Adapter, Block};
pub use beside::LoraTerm;
pub use checkpoint::{
    MergeProgress, MergeReport, merge_into_checkpoint, merge_into_checkpoint_with,
};
pub use error::{LoraError, UnsupportedKind};
pub use format::{Format, UnknownFormat, WriteOptions, adapter_warnings};
pub use fresh::{Fused, LoraTraining, NewAdapter};
pub use host::LoraHost;
pub use layer::{LoraBlock, LoraBranch, LoraLinear, LoraLinearConfig};
pub use matrix::Matrix;
pub use merge::{CheckpointWeights, KeptWeights, LoraMerge, OriginalWeights};
pub use packed_checkpoint::merge_into_packed_checkpoint;
pub use patch::{Change, Patch};
pub use registry::{AdapterStatus, LoraOptions, LoraRegistry, LoraReport, check_fit};
pub use report::{AdapterReport, TargetReport};
pub use requantized::Requantized;
pub use scope::{LayerScope, ParsePlaceError, Place};
pub use svd::{LowRankReport, RankRule};
pub use targets::{Target, TargetTable};
pub use vector::{LoraVector, VectorPatch};
