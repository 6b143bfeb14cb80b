//! LongCat-Video on Burn: pipelines, scheduler, checkpoints and video files.
//!
//! - [`Pipeline`] opens a [`Checkpoint`] directory on a device of any Burn backend and turns requests
//!   into latents and frames: [`TextToVideoRequest`], [`ImageToVideoRequest`],
//!   [`ContinuationRequest`], [`LongVideoRequest`], [`RefineRequest`];
//! - what a request leaves open is the checkpoint's: [`VideoDefaults`];
//! - adapters are loaded, switched and merged with [`Pipeline::load_lora`], [`Pipeline::use_loras`]
//!   and [`Pipeline::merge_loras`];
//! - [`Pipeline::plan`] checks a request and says what it comes to, before any model is loaded;
//! - [`Observer`] follows a run, sees previews of it ([`Latents::preview`]) and can stop it; [`NoiseSource`] is
//!   where randomness comes from;
//! - [`PixelFrames`] and [`Latents`] are videos and latents on the host, [`media`] their files, and
//!   [`Settings`] what they were made with.
//!
//! ```no_run
//! use longcat_video::{Pipeline, PipelineOptions, SeededNoise, Silent, TextToVideoRequest};
//!
//! type Backend = burn_flex::Flex;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let options = PipelineOptions::default();
//!     let mut pipeline = Pipeline::<Backend>::open("LongCat-Video", options, &Default::default())?;
//!     let request = TextToVideoRequest::new("a red circle moves right");
//!     let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
//!     let videos = pipeline.decode(made.latents, &mut Silent)?;
//!     videos[0].write_video("circle.mp4", pipeline.defaults().fps)?;
//!     Ok(())
//! }
//! ```

mod adapters;
mod buckets;
mod checkpoint;
mod convert;
mod defaults;
mod error;
mod frames;
mod guidance;
mod inspect;
mod latents;
mod long_video;
mod lora_scope;
mod memory;
mod merging;
mod noise;
mod parts;
mod pipeline;
mod preview;
mod same_adapter;
mod scheduler;
mod settings;

pub use adapters::{CFG_STEP_LORA, LoraStatus, REFINEMENT_LORA};
pub use checkpoint::Checkpoint;
pub use convert::{ConvertProgress, convert_to_comfyui, convert_to_official, quantize};
pub use defaults::{TrainedSizes, VideoDefaults};
pub use error::VideoError;
pub use frames::PixelFrames;
pub use guidance::cfg_zero;
pub use inspect::{StoredAmount, WeightsReport, inspect_weights};
pub use latents::Latents;
pub use long_video::LongVideo;
pub use longcat_dit::Fp8Layers;
pub use longcat_kernels::{
    AttentionNumbers, DeviceError, DeviceFault, KernelBackend, Products, Stage,
};
pub use longcat_lora::Requantized;
pub use longcat_media as media;
pub use longcat_media::VideoSize;
pub use longcat_vae::{LatentColours, LatentDraw, Tiling};
pub use longcat_weights::Precision;
pub use lora_scope::{LoraScope, LoraStages, ParseScopeError, StepScope};
pub use memory::{
    Asked, ClipSizes, DenoiseSizes, DeviceRates, DeviceSizes, DoesNotFit, ExpectedTimes,
    KeptWeights, MemoryLimit, MemoryPlan, ModelSizes, ParseMemoryError, Parts, RatesSource,
    RequestSizes, TextPlan, TextSizes, TrainingPlan, TrainingSizes, TransformerPlan,
    TransformerSizes, VaePlan, VaeSizes, in_words,
};
pub use noise::{NoisePurpose, NoiseSource, SeededNoise};
pub use parts::{CheckpointParts, Component};
pub use pipeline::{
    ContinuationRequest, EasyCache, FrameRange, Generated, ImageToVideoRequest, LongVideoRequest,
    Observer, ParseCacheError, Pipeline, PipelineOptions, RefineCondition, RefineRequest, Refined,
    Sampling, Silent, StepEvent, TakeFrames, TextToVideoRequest, VideoPlan, VideoRequest,
    refine_start,
};
pub use preview::{fit_latent_colours, mean_colours};
pub use scheduler::{FlowMatchScheduler, Schedule, ScheduleMode};
pub use settings::{Settings, StageSettings, UsedAdapter, UsedCache};

/// The code in the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
