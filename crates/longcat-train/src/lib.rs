//! LoRA fine-tuning of LongCat-Video by Burn autodiff.
//!
//! - [`Objective`], [`Batch`]: flow matching on clean latents;
//! - [`TrainStep`]: loss and gradients of one batch, with per-block activation checkpointing;
//! - [`Gradients`], [`LoraOptimizer`]: what a step gives, and Burn's AdamW over it.

mod backend;
mod error;
mod names;
mod optimizer;
mod parameters;
mod step;

pub use backend::TrainBackend;
pub use error::TrainError;
pub use names::official_tensors;
pub use optimizer::{LoraOptimizer, OptimizerConfig};
pub use parameters::{Gradients, Parameter, trained, update};
pub use step::{Batch, Objective, StepOutput, TrainStep};
