//! Training LongCat-Video by Burn autodiff: adapters beside the transformer, or a whole small model.
//!
//! - [`run()`]: a run from its TOML file ([`TrainConfig`]), resumed if it was interrupted;
//! - [`scan`], [`encode`]: clips with captions, and their encodings on disk;
//! - [`Objective`], [`Batch`], [`TrainStep`]: flow matching, its loss and gradients, with per-block
//!   activation checkpointing;
//! - [`Gradients`], [`LoraOptimizer`]: what a step gives, and Burn's AdamW over it;
//! - [`Trainer`], [`Task`]: the loop, whatever is trained;
//! - [`Observer`]: what a run tells while it works.

mod backend;
mod bar;
mod cache;
mod config;
mod data;
mod error;
mod names;
mod observe;
mod optimizer;
mod packed;
mod parameters;
mod run;
mod sampling;
mod step;
mod trainer;
mod transformer;
mod vae_task;

pub use backend::TrainBackend;
pub use bar::Bar;
pub use cache::{Dataset, Entry, Latents, TextTable, encode, fingerprint};
pub use config::{
    CacheConfig, CheckpointConfig, DataConfig, DistillConfig, Fused, LoopConfig, LoraConfig, Mode,
    ModelConfig, ObjectiveConfig, OptimizerSection, PosteriorChoice, Precision, SampleConfig,
    ScheduleKind, TimestepSampling, TrainConfig, VaeConfig, ValidationConfig, read_config,
};
pub use data::{Bucket, Clip, Condition, Media, Size, choose, scan};
pub use error::TrainError;
pub use names::official_tensors;
pub use observe::{Observer, Progress, Quiet};
pub use optimizer::{LoraOptimizer, OptimizerConfig};
pub use parameters::{Gradients, Parameter, trained, update};
pub use run::run;
pub use step::{Batch, Objective, StepOutput, TrainStep};
pub use trainer::{Metric, Outcome, Position, Task, Trainer, read_metrics};
pub use transformer::{ADAPTER, JointModel, JointTask, RunInfo, TransformerTask, attach_adapter};
pub use vae_task::VaeTask;
