//! LoRA adapters for Burn: layers, a registry, every common file format, merging and reports.
//!
//! - [`LoraLinear`]: a linear layer with any number of adapters beside it;
//! - [`LoraHost`]: what a model implements, with its [`TargetTable`];
//! - [`Adapter`]: an adapter on the host; [`Adapter::read`] and [`Adapter::write`] know the
//!   [`Format`]s, [`AdapterReport::inspect`] says what a file holds;
//! - [`LoraRegistry`]: adapters on a model, by nickname;
//! - [`LoraMerge`], [`merge_into_checkpoint`]: adapters inside the weights;
//! - [`LoraTraining`]: new adapters, and reading them back.

mod adapter;
mod checkpoint;
mod error;
mod format;
mod fresh;
mod host;
mod layer;
mod matrix;
mod merge;
mod registry;
mod report;
mod targets;

pub use adapter::{Adapter, Block};
pub use checkpoint::{MergeReport, merge_into_checkpoint};
pub use error::{LoraError, UnsupportedKind};
pub use format::{Format, UnknownFormat, WriteOptions};
pub use fresh::{Fused, LoraTraining, NewAdapter};
pub use host::LoraHost;
pub use layer::{LoraBlock, LoraBranch, LoraLinear, LoraLinearConfig};
pub use matrix::Matrix;
pub use merge::{CheckpointWeights, KeptWeights, LoraMerge, OriginalWeights};
pub use registry::{AdapterStatus, LoraOptions, LoraRegistry, LoraReport, check_fit};
pub use report::{AdapterReport, TargetReport};
pub use targets::{Target, TargetTable};
