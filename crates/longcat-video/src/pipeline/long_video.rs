//! Long videos, segment by segment.

use std::path::Path;

use longcat_kernels::KernelBackend;

use super::continuation::continuation_mode;
use super::refine::RefineShape;
use super::{
    ContinuationRequest, Observer, Pipeline, RefineCondition, RefineRequest, Sampling,
    TextToVideoRequest, VideoPlan,
};
use crate::long_video::{LongVideo, SegmentFolder};
use crate::noise::SeededNoise;
use crate::{VideoError, VideoSize};

/// What a long video needs.
#[derive(Debug, Clone, PartialEq)]
pub struct LongVideoRequest {
    /// One prompt for all segments, or one per segment.
    pub prompts: Vec<String>,
    /// Number of segments.
    pub segments: usize,
    /// What to keep away from; used with guidance above 1 only.
    pub negative_prompt: String,
    /// Size in pixels, multiples of 16; the checkpoint's by default.
    pub size: Option<VideoSize>,
    /// Frames per segment, 4n + 1, condition frames included; the checkpoint's by default.
    pub frames: Option<usize>,
    /// How many frames of a segment condition the next, 4n + 1; the checkpoint's number by default.
    pub cond_frames: Option<usize>,
    /// Steps, guidance, schedule; [`Sampling::standard`] by default.
    pub sampling: Sampling,
    /// Compute keys and values of the condition once instead of in every step.
    pub kv_cache: bool,
    /// Keep the cache in host memory.
    pub offload_kv_cache: bool,
    /// As in [`ContinuationRequest`].
    pub enhance_hf: Option<bool>,
    /// Seed of the first segment's noise; the others have the seeds after it.
    pub seed: u64,
}

impl LongVideoRequest {
    /// A segment for every prompt, with the checkpoint's defaults.
    pub fn new<P: Into<String>>(prompts: impl IntoIterator<Item = P>) -> Self {
        let prompts: Vec<String> = prompts.into_iter().map(Into::into).collect();
        Self {
            segments: prompts.len(),
            prompts,
            negative_prompt: String::new(),
            size: None,
            frames: None,
            cond_frames: None,
            sampling: Sampling::standard(),
            kv_cache: true,
            offload_kv_cache: false,
            enhance_hf: None,
            seed: 0,
        }
    }

    fn check(&self) -> Result<(), VideoError> {
        let (prompts, segments) = (self.prompts.len(), self.segments);
        if segments == 0 || (prompts != 1 && prompts != segments) {
            return Err(VideoError::invalid(
                "prompts",
                format!(
                    "{prompts} prompts for {segments} segments: give one prompt, or one per segment"
                ),
            ));
        }
        Ok(())
    }

    /// The request of the first segment.
    pub(super) fn first(&self) -> TextToVideoRequest {
        TextToVideoRequest {
            negative_prompt: self.negative_prompt.clone(),
            size: self.size,
            frames: self.frames,
            sampling: self.sampling.clone(),
            ..TextToVideoRequest::new(self.prompt(0))
        }
    }

    fn prompt(&self, segment: usize) -> &str {
        &self.prompts[segment.min(self.prompts.len() - 1)]
    }
}

impl<B: KernelBackend> Pipeline<B> {
    pub(crate) fn plan_long_video(
        &self,
        request: &LongVideoRequest,
    ) -> Result<VideoPlan, VideoError> {
        request.check()?;
        let first = self.plan_text_to_video(&request.first())?;
        self.adapters.check_steps(first.schedule.len(), false)?;
        let first = first.plan;
        let cond_frames = request
            .cond_frames
            .unwrap_or_else(|| self.cond_frames_of(first.frames));
        let mut frames = first.frames;
        if request.segments > 1 {
            self.condition_latents(first.frames, cond_frames)?;
            let mode = continuation_mode(&request.sampling, request.enhance_hf)?;
            let schedule = self.scheduler().schedule(request.sampling.steps, mode)?;
            self.adapters.check_steps(schedule.len(), false)?;
            let new = first.frames - cond_frames;
            frames = frames.saturating_add((request.segments - 1).saturating_mul(new));
        }
        Ok(VideoPlan {
            frames,
            cond_frames,
            ..first
        })
    }

    /// Makes a long video: a first segment from its prompt, then continuations.
    ///
    /// Finished segments are kept in `work_dir`: a run that was stopped goes on there, and gives the
    /// video of one that was not. Memory does not grow with the number of segments; more of them can
    /// be added later.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] when `work_dir` holds segments of another request, or of another
    /// checkpoint, dtype or choice of adapters; else as [`Pipeline::text_to_video`] and
    /// [`Pipeline::continue_video`].
    pub fn long_video(
        &mut self,
        request: &LongVideoRequest,
        work_dir: &Path,
        observer: &mut dyn Observer,
    ) -> Result<LongVideo, VideoError> {
        let plan = self.plan_long_video(request)?;
        let cond_frames = plan.cond_frames;
        let request = LongVideoRequest {
            size: Some(plan.size),
            frames: Some(request.frames.unwrap_or(self.defaults().frames)),
            cond_frames: Some(cond_frames),
            ..request.clone()
        };
        let folder = SegmentFolder::open(work_dir, &self.settings_of(&request))?;
        for index in 0..request.segments {
            let finished = folder.has(index);
            observer.segment(index, request.segments, finished);
            if !finished {
                self.make_segment(&request, index, &folder, observer)?;
            }
        }
        Ok(LongVideo::new(folder, request.segments, cond_frames))
    }

    /// What refining a long video that is still to be made comes to.
    pub(crate) fn plan_refined_long_video(
        &self,
        request: &LongVideoRequest,
    ) -> Result<VideoPlan, VideoError> {
        let whole = self.plan_long_video(request)?;
        let frames = request.frames.unwrap_or(self.defaults().frames);
        let cond_frames = 2 * whole.cond_frames;
        let refined = self.plan_refinement(&RefineShape::of(whole.size, frames, 0))?;
        self.adapters.check_steps(refined.schedule.len(), true)?;
        if request.segments > 1 {
            self.plan_refinement(&RefineShape::of(whole.size, frames, cond_frames))?;
        }
        Ok(VideoPlan {
            size: refined.plan.size,
            frames: 2 * whole.frames,
            cond_frames,
            first_frame: 0,
        })
    }

    /// Refines a long video segment by segment, each with the end of the refined one before it as its
    /// condition frames, as in the official demo; within [`Pipeline::with_refinement`].
    ///
    /// `request` is what the video was made from. Refined segments are kept in a folder within that of the
    /// video: a run that was stopped goes on there.
    ///
    /// # Errors
    /// As [`Pipeline::refine`], and [`VideoError::Invalid`] when refined segments of another request are
    /// there.
    pub fn refine_long_video(
        &mut self,
        video: &LongVideo,
        request: &LongVideoRequest,
        observer: &mut dyn Observer,
    ) -> Result<LongVideo, VideoError> {
        request.check()?;
        let cond_frames = 2 * video.cond_frames();
        let settings = [
            ("refining adapters", self.adapters_in_use()),
            ("passes left out", format!("{:?}", request.sampling.cache)),
        ];
        let folder = video.folder().inner("refined", &settings)?;
        for index in 0..video.segments() {
            let finished = folder.has(index);
            observer.segment(index, video.segments(), finished);
            if finished {
                continue;
            }
            let condition = match index {
                0 => None,
                _ => Some(RefineCondition {
                    pixels: folder.read(index - 1)?,
                    frames: cond_frames,
                }),
            };
            let segment = RefineRequest {
                condition,
                cache: request.sampling.cache,
                ..RefineRequest::new(video.folder().read(index)?, request.prompt(index))
            };
            let mut noise = SeededNoise::new(request.seed.wrapping_add(index as u64));
            let refined = self.refine(&segment, &mut noise, observer)?;
            folder.keep(index, &self.decode_refined(&refined, observer)?)?;
        }
        Ok(LongVideo::new(folder, video.segments(), cond_frames))
    }

    /// Everything that segments depend on but their number, by name.
    fn settings_of(&self, request: &LongVideoRequest) -> Vec<(&'static str, String)> {
        let options = self.options();
        vec![
            ("prompts", format!("{:?}", request.prompts)),
            ("negative prompt", format!("{:?}", request.negative_prompt)),
            (
                "size",
                request.size.map(|s| s.to_string()).unwrap_or_default(),
            ),
            ("frames", format!("{:?}", request.frames)),
            ("condition frames", format!("{:?}", request.cond_frames)),
            ("sampling", format!("{:?}", request.sampling)),
            ("seed", request.seed.to_string()),
            ("kv cache", request.kv_cache.to_string()),
            ("enhance-hf", format!("{:?}", request.enhance_hf)),
            ("model", self.checkpoint().identity()),
            ("adapters", self.adapters_in_use()),
            (
                "dtypes",
                format!("{:?}", (options.dtype, options.vae_dtype)),
            ),
            ("precision", options.precision.to_string()),
            ("products", options.products.to_string()),
            ("attention", options.attention.to_string()),
            ("tiling", format!("{:?}", options.tiling)),
        ]
    }

    /// Files, strengths and scopes of the adapters in use.
    fn adapters_in_use(&self) -> String {
        let adapters = self.loras();
        let adapters: Vec<_> = adapters
            .iter()
            .filter(|lora| lora.enabled)
            .map(|lora| (&lora.path, lora.strength, lora.scope.to_string()))
            .collect();
        format!("{adapters:?}")
    }

    fn make_segment(
        &mut self,
        request: &LongVideoRequest,
        index: usize,
        folder: &SegmentFolder,
        observer: &mut dyn Observer,
    ) -> Result<(), VideoError> {
        let mut noise = SeededNoise::new(request.seed.wrapping_add(index as u64));
        let prompt = request.prompt(index);
        let made = match index {
            0 => self.text_to_video(&request.first(), &mut noise, observer)?,
            _ => {
                let next = ContinuationRequest {
                    negative_prompt: request.negative_prompt.clone(),
                    size: request.size,
                    frames: request.frames,
                    cond_frames: request.cond_frames,
                    sampling: request.sampling.clone(),
                    kv_cache: request.kv_cache,
                    offload_kv_cache: request.offload_kv_cache,
                    enhance_hf: request.enhance_hf,
                    ..ContinuationRequest::new(folder.read(index - 1)?, prompt)
                };
                self.continue_video(&next, &mut noise, observer)?
            }
        };
        let clips = self.decode(made.latents, observer)?;
        folder.keep(index, &clips[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prompt_or_one_per_segment() {
        let request = |prompts: &[&str], segments| LongVideoRequest {
            segments,
            ..LongVideoRequest::new(prompts.iter().copied())
        };
        for (prompts, segments, fits) in [
            (&["a"][..], 1, true),
            (&["a"], 3, true),
            (&["a", "b"], 2, true),
            (&["a", "b"], 3, false),
            (&["a"], 0, false),
            (&[], 0, false),
            (&[], 1, false),
        ] {
            let request = request(prompts, segments);
            assert_eq!(request.check().is_ok(), fits, "{prompts:?} {segments}");
        }
    }
}
