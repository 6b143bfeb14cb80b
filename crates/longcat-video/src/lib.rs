//! LongCat-Video on Burn: pipelines, scheduler, checkpoints and video files.
//!
//! [`Pipeline`] is where to start: it opens a [`Checkpoint`] on a device and turns requests into
//! latents and pixels.

mod adapters;
mod buckets;
mod checkpoint;
mod defaults;
mod error;
mod frames;
mod guidance;
mod latents;
mod long_video;
mod noise;
mod pipeline;
mod scheduler;

pub use adapters::{CFG_STEP_LORA, LoraStatus, REFINEMENT_LORA};
pub use checkpoint::Checkpoint;
pub use defaults::{TrainedSizes, VideoDefaults};
pub use error::VideoError;
pub use frames::PixelFrames;
pub use guidance::cfg_zero;
pub use latents::Latents;
pub use long_video::LongVideo;
pub use longcat_kernels::KernelBackend;
pub use longcat_media as media;
pub use longcat_media::VideoSize;
pub use longcat_vae::{LatentDraw, Tiling};
pub use noise::{NoisePurpose, NoiseSource, SeededNoise};
pub use pipeline::{
    ContinuationRequest, Generated, ImageToVideoRequest, LongVideoRequest, Observer, Pipeline,
    PipelineOptions, RefineCondition, RefineRequest, Refined, Sampling, Silent, StepEvent,
    TextToVideoRequest, refine_start,
};
pub use scheduler::{FlowMatchScheduler, Schedule, ScheduleMode};
