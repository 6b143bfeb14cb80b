//! Training LongCat-Video by Burn autodiff: adapters beside the transformer, or all of its weights.
//!
//! - [`run()`]: a run from its TOML file ([`TrainConfig`]), resumed if it was interrupted;
//! - [`TrainingData`], [`encode_clips`]: clips with captions, and their encodings on disk;
//! - [`Batch`], [`FlowMatching`], [`TrainStep`]: flow matching, its loss and gradients, with per-block
//!   activation checkpointing;
//! - [`Gradients`], [`LoraOptimizer`]: what a step gives, and Burn's AdamW over it;
//! - [`Trainer`], [`Task`]: the loop, whatever is trained;
//! - [`BatchTransform`]: *(model, batch) → batch*, for objectives in which the model has a part;
//! - [`Ranks`]: several processes that train together;
//! - [`TrainObserver`]: what a run tells while it works;
//! - [`memory_plan`]: what it would take of a device's memory.
//!
//! Training an adapter on the CPU:
//!
//! ```
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//!
//! use burn_flex::{Flex, FlexDevice};
//! use longcat_train::{Outcome, Quiet, TrainError, run};
//!
//! /// `config` is a TOML file as `examples/train/lora.toml`.
//! fn train(config: &Path) -> Result<Outcome, TrainError> {
//!     // Set it from a handler of Ctrl-C; the run then saves its state and ends.
//!     let interrupt = AtomicBool::new(false);
//!     run::<Flex>(config, None, &FlexDevice, &mut Quiet, &interrupt)
//! }
//!
//! let problem = train(Path::new("no-such-file.toml")).unwrap_err();
//! assert!(problem.to_string().contains("no-such-file.toml"));
//! ```

mod backend;
mod bar;
mod cache;
mod config;
mod data;
mod error;
mod memory;
mod names;
mod observe;
mod optimizer;
mod order;
mod packed;
mod parameters;
mod prepare;
mod ranks;
mod run;
mod sampling;
mod step;
mod summary;
mod trainer;
mod transformer;

pub use backend::TrainBackend;
pub use bar::Bar;
pub use cache::{
    CachedLatents, Entry, LatentDataset, TextTable, encode_clips, encode_texts, fingerprint,
};
pub use config::{
    BaseWeights, CacheConfig, CheckpointConfig, ConditionShares, DataConfig, LoopConfig,
    LoraConfig, Mode, ModelConfig, NoiseLevels, Objective, OptimizerSection,
    ParseSampleFormatError, Precision, SampleConfig, SampleFormat, ScheduleKind, Take, TrainConfig,
    ValidationConfig, read_config,
};
pub use data::{CaptionedClip, Condition, FoundClips, Ignored, Media};
pub use error::TrainError;
pub use memory::{RunPlan, memory_plan};
pub use names::official_tensors;
pub use observe::{Quiet, StepReport, TrainObserver};
pub use optimizer::{LoraOptimizer, OptimizerConfig};
pub use order::BatchOrder;
pub use parameters::{Gradients, Parameter, collect_gradients, read_values, trained, update};
pub use prepare::TrainingData;
pub use ranks::{RankError, RankPlace, Ranks, host_name};
pub use run::{run, run_ranks, train};
pub use sampling::{Purpose, normals, open_unit, stream};
pub use step::{Batch, FlowMatching, StepOutput, TrainStep};
pub use summary::{BucketSummary, DataSummary};
pub use trainer::{Metric, Outcome, OutputFolder, Position, Task, Trainer, Weights, read_metrics};
pub use transformer::{
    ADAPTER, BatchSamples, BatchTransform, EncodedCaptions, EncodedText, RunInfo, TransformerTask,
    attach_adapter,
};

/// The Rust code of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
