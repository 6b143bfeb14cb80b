//! Pipelines: from a request to latents and frames.

mod base;
mod continuation;
mod decode;
mod denoise;
mod image_to_video;
mod long_video;
mod memory;
mod observer;
mod options;
mod pixels;
mod plan;
mod predict;
mod products;
mod prompts;
mod rates;
mod refine;
mod request;
mod step_cache;
mod switching;
mod text_to_video;

pub use base::{Generated, Pipeline};
pub use continuation::ContinuationRequest;
pub use decode::{FrameRange, TakeFrames};
pub use image_to_video::ImageToVideoRequest;
pub use long_video::LongVideoRequest;
pub use observer::{Observer, Silent, StepEvent};
pub use options::PipelineOptions;
pub use plan::{VideoPlan, VideoRequest};
pub use refine::{RefineCondition, RefineRequest, Refined, refine_start};
pub use request::Sampling;
pub use step_cache::{EasyCache, ParseCacheError};
pub use text_to_video::TextToVideoRequest;
