//! LoRA adapters for Burn: layers, a registry, every common file format, merging and reports.

mod host;
mod layer;
mod targets;

pub use host::LoraHost;
pub use layer::{LoraBlock, LoraBranch, LoraLinear, LoraLinearConfig};
pub use targets::{Target, TargetTable};
