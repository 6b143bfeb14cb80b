//! What a request comes to, known before any model is loaded.

use longcat_dit::DitError;
use longcat_kernels::KernelBackend;

use super::refine::RefineShape;
use super::{
    ContinuationRequest, ImageToVideoRequest, LongVideoRequest, Pipeline, RefineRequest,
    TextToVideoRequest,
};
use crate::scheduler::Schedule;
use crate::{VideoError, VideoSize};

/// A request of any kind.
#[derive(Debug, Clone, Copy)]
pub enum VideoRequest<'a> {
    /// For [`Pipeline::text_to_video`].
    TextToVideo(&'a TextToVideoRequest),
    /// For [`Pipeline::image_to_video`].
    ImageToVideo(&'a ImageToVideoRequest),
    /// For [`Pipeline::continue_video`].
    Continuation(&'a ContinuationRequest),
    /// For [`Pipeline::long_video`].
    LongVideo(&'a LongVideoRequest),
    /// For [`Pipeline::refine`] within [`Pipeline::with_refinement`].
    Refinement(&'a RefineRequest),
    /// Refining, with the official settings, what another request makes.
    RefinementOf {
        /// The video of the first stage.
        video: &'a VideoPlan,
        /// Frames of the refined video that condition frames will cover.
        cond_frames: usize,
    },
    /// Refining a long video with [`Pipeline::refine_long_video`].
    RefinementOfLongVideo(&'a LongVideoRequest),
}

/// The video that a request makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoPlan {
    /// Size of the frames.
    pub size: VideoSize,
    /// Number of frames, condition frames included. All frames of a long video.
    pub frames: usize,
    /// Condition frames that it begins with; of a long video, those that each later segment repeats.
    pub cond_frames: usize,
    /// Frames before the first one when the latents are decoded: padding of refining.
    pub first_frame: usize,
}

/// A plan, with what the pipelines make of it.
pub(crate) struct Planned {
    pub plan: VideoPlan,
    /// Latent frames, height and width.
    pub latents: [usize; 3],
    /// Leading latent frames that are conditions.
    pub num_cond: usize,
    pub schedule: Schedule,
}

impl<B: KernelBackend> Pipeline<B> {
    /// Checks a request against the checkpoint and says what it makes. The pipelines check the same
    /// before they load a model; a caller that has more to do between can ask first.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] names the setting; [`VideoError::Dit`] when a checkpoint without
    /// block-sparse attention is to refine; [`VideoError::DoesNotFit`] when the device has not the memory.
    pub fn plan(&self, request: VideoRequest<'_>) -> Result<VideoPlan, VideoError> {
        let plan = self.plan_video(request)?;
        self.memory_plan(request)?;
        Ok(plan)
    }

    fn plan_video(&self, request: VideoRequest<'_>) -> Result<VideoPlan, VideoError> {
        let refines = matches!(
            request,
            VideoRequest::Refinement(_)
                | VideoRequest::RefinementOf { .. }
                | VideoRequest::RefinementOfLongVideo(_)
        );
        if refines && self.transformer_config().bsa_params.is_none() {
            return Err(DitError::NoBsaParams.into());
        }
        let planned = match request {
            VideoRequest::TextToVideo(request) => self.plan_text_to_video(request)?,
            VideoRequest::ImageToVideo(request) => self.plan_image_to_video(request)?,
            VideoRequest::Continuation(request) => {
                let shape = (request.video.size(), request.video.len());
                self.plan_continuation(request, shape)?
            }
            VideoRequest::LongVideo(request) => return self.plan_long_video(request),
            VideoRequest::RefinementOfLongVideo(request) => {
                return self.plan_refined_long_video(request);
            }
            VideoRequest::Refinement(request) => {
                let planned = self.plan_refinement(&request.shape())?;
                self.check_condition(request, planned.plan.frames)?;
                planned
            }
            VideoRequest::RefinementOf { video, cond_frames } => {
                let shape = RefineShape::of(video.size, video.frames, cond_frames);
                self.plan_refinement(&shape)?
            }
        };
        self.adapters.check_steps(planned.schedule.len(), refines)?;
        Ok(planned.plan)
    }
}

/// Refuses an empty list of prompts.
pub(crate) fn check_prompts(prompts: &[String]) -> Result<(), VideoError> {
    match prompts.is_empty() {
        true => Err(VideoError::invalid("prompt", "at least one is needed")),
        false => Ok(()),
    }
}
