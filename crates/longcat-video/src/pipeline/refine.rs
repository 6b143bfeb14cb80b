//! Refining: more pixels and twice the frame rate.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::{KernelBackend, Stage};
use longcat_vae::LatentDraw;

use super::base::Denoising;
use super::memory::Run;
use super::plan::Planned;
use super::prompts::EncodedText;
use super::request::check_size;
use super::{EasyCache, Generated, Observer, Pipeline, Sampling, VideoPlan, VideoRequest};
use crate::frames::{PixelFrames, resample};
use crate::noise::{NoisePurpose, NoiseSource, noise_tensor};
use crate::scheduler::ScheduleMode;
use crate::{VideoError, VideoSize};

/// Latent frames are padded to a multiple of this, for the chunks of block-sparse attention.
const LATENT_MULTIPLE: usize = 4;

/// Clean frames that a refined video keeps to.
#[derive(Debug, Clone)]
pub struct RefineCondition {
    /// A picture (one frame), or a video whose last `frames` frames count; they are brought to the
    /// refined size.
    pub pixels: PixelFrames,
    /// Frames of the refined video that they cover.
    pub frames: usize,
}

/// What refining a 480p video needs.
#[derive(Debug, Clone)]
pub struct RefineRequest {
    /// The video of the first stage.
    pub video: PixelFrames,
    /// The prompt it was made from.
    pub prompt: String,
    /// Refined size, multiples of 64; by default the one of the checkpoint that is nearest in shape.
    pub size: Option<VideoSize>,
    /// Keep the frame rate instead of doubling it.
    pub spatial_only: bool,
    /// Condition frames, where the first stage had some.
    pub condition: Option<RefineCondition>,
    /// Steps of the full schedule; those at or below the threshold are taken (50 in the release).
    pub steps: usize,
    /// Share of noise to start from (0.5 in the release).
    pub threshold: f32,
    /// Text tokens per prompt.
    pub max_sequence_length: usize,
    /// How latents are taken from the VAE.
    pub latent_draw: LatentDraw,
    /// When passes of the transformer are left out; `None`, the default, computes all.
    pub cache: Option<EasyCache>,
}

impl RefineRequest {
    /// Steps of the full schedule in the release.
    pub const STEPS: usize = 50;
    /// Share of noise that the release starts from.
    pub const THRESHOLD: f32 = 0.5;

    /// The official settings, in space and time.
    pub fn new(video: PixelFrames, prompt: impl Into<String>) -> Self {
        Self {
            video,
            prompt: prompt.into(),
            size: None,
            spatial_only: false,
            condition: None,
            steps: Self::STEPS,
            threshold: Self::THRESHOLD,
            max_sequence_length: Sampling::standard().max_sequence_length,
            latent_draw: LatentDraw::Sample,
            cache: None,
        }
    }
}

/// How many frames and latents are real and how many are padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefinePadding {
    /// Copies of the first frame in front.
    pub front: usize,
    /// Copies of the last frame behind.
    pub back: usize,
    /// Leading latents that are conditions.
    pub cond_latents: usize,
}

impl RefinePadding {
    /// Condition and noise latents are padded to multiples of four separately.
    pub(crate) fn new(frames: usize, cond_frames: usize, per_latent: usize) -> Self {
        let (cond_latents, front) = match cond_frames {
            0 => (0, 0),
            n => {
                let latents = (1 + (n - 1).div_ceil(per_latent)).next_multiple_of(LATENT_MULTIPLE);
                (latents, 1 + (latents - 1) * per_latent - n)
            }
        };
        let noise_frames = frames - cond_frames;
        let noise_latents = noise_frames
            .div_ceil(per_latent)
            .next_multiple_of(LATENT_MULTIPLE);
        Self {
            front,
            back: noise_latents * per_latent - noise_frames,
            cond_latents,
        }
    }
}

/// What the shape of a refined video depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefineShape {
    given: VideoSize,
    frames: usize,
    size: Option<VideoSize>,
    spatial_only: bool,
    cond_frames: usize,
    steps: usize,
    threshold: f32,
    cache: Option<EasyCache>,
}

impl RefineRequest {
    pub(crate) fn shape(&self) -> RefineShape {
        RefineShape {
            given: self.video.size(),
            frames: self.video.len(),
            size: self.size,
            spatial_only: self.spatial_only,
            cond_frames: self.condition.as_ref().map_or(0, |c| c.frames),
            steps: self.steps,
            threshold: self.threshold,
            cache: self.cache,
        }
    }
}

impl RefineShape {
    /// Refining a video of this size and number of frames with the official settings.
    pub(crate) fn of(given: VideoSize, frames: usize, cond_frames: usize) -> Self {
        Self {
            given,
            frames,
            size: None,
            spatial_only: false,
            cond_frames,
            steps: RefineRequest::STEPS,
            threshold: RefineRequest::THRESHOLD,
            cache: None,
        }
    }
}

impl<B: KernelBackend> Pipeline<B> {
    pub(crate) fn plan_refinement(&self, shape: &RefineShape) -> Result<Planned, VideoError> {
        Ok(self.plan_refined(shape)?.0)
    }

    fn plan_refined(&self, shape: &RefineShape) -> Result<(Planned, RefinePadding), VideoError> {
        let size = match shape.size {
            Some(size) => size,
            None => self.defaults().refined_size_for(shape.given)?,
        };
        check_size(size, 4 * self.pixel_multiple())?;
        let [height, width] = self.latent_size(size)?;
        let frames = match shape.spatial_only {
            true => shape.frames,
            false => 2 * shape.frames,
        };
        if let Some(cache) = &shape.cache {
            cache.check()?;
        }
        let cond_frames = shape.cond_frames;
        if cond_frames >= frames {
            return Err(VideoError::invalid(
                "condition frames",
                format!("{cond_frames}, for a refined video of {frames}: fewer than it has"),
            ));
        }
        let mode = ScheduleMode::Refine {
            threshold: shape.threshold,
        };
        let schedule = self.scheduler().schedule(shape.steps, mode)?;
        let per_latent = self.vae_config().scale_factor_temporal;
        let padding = RefinePadding::new(frames, cond_frames, per_latent);
        let all = padding.front + frames + padding.back;
        let planned = Planned {
            plan: VideoPlan {
                size,
                frames,
                cond_frames,
                first_frame: padding.front,
            },
            latents: [1 + (all - 1) / per_latent, height, width],
            num_cond: padding.cond_latents,
            schedule,
        };
        Ok((planned, padding))
    }

    /// Refines a video: more pixels and, unless `spatial_only`, twice the frames.
    ///
    /// Adapter and block-sparse attention are the caller's to switch
    /// ([`Pipeline::with_refinement`] does both). The result's latents hold padding;
    /// [`Self::decode_refined`] cuts it off.
    ///
    /// # Errors
    /// [`VideoError`]: a request that cannot work is refused before any model is loaded.
    pub fn refine(
        &mut self,
        request: &RefineRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Refined<B>, VideoError> {
        let shape = request.shape();
        let cond_frames = shape.cond_frames;
        let (planned, padding) = self.plan_refined(&shape)?;
        self.check_condition(request, planned.plan.frames)?;
        let run = Run::refining(request.max_sequence_length);
        self.memory_plan(VideoRequest::Refinement(request))?;
        let VideoPlan { size, frames, .. } = planned.plan;
        let text = self.encode_prompts(
            std::slice::from_ref(&request.prompt),
            request.max_sequence_length,
            observer,
        )?;

        let clip = upsample(&request.video, size, frames, padding, self.device());
        let up = self.encode_condition(clip, 1, request.latent_draw, 0, noise, observer)?;
        let fresh = noise_tensor(noise, NoisePurpose::Refine, up.dims(), self.device());
        let share = f64::from(request.threshold);
        let mut latents = up * (1.0 - share) + fresh * share;
        if let Some(condition) = &request.condition {
            let clip = condition.pixels.tail(cond_frames).resized(size);
            let clip = clip.to_tensor(self.device());
            let clip = repeat_first(clip, padding.front);
            let cond = self.encode_condition(clip, 1, request.latent_draw, 1, noise, observer)?;
            let total = latents.dims()[2];
            let rest = latents.narrow(2, padding.cond_latents, total - padding.cond_latents);
            latents = Tensor::cat(vec![cond, rest], 2);
        }
        self.make_room_for_denoising(&planned, &run, false)?;
        let run = Denoising {
            text: EncodedText {
                condition: text,
                guidance: None,
            },
            schedule: planned.schedule,
            latents,
            num_cond: padding.cond_latents,
            clean: None,
            cache: request.cache,
        };
        Ok(Refined {
            generated: self.denoise(run, observer)?,
            first_frame: padding.front,
            frames,
        })
    }

    pub(crate) fn check_condition(
        &self,
        request: &RefineRequest,
        frames: usize,
    ) -> Result<(), VideoError> {
        let Some(condition) = &request.condition else {
            return Ok(());
        };
        let given = condition.pixels.len();
        if condition.frames == 0 || condition.frames > given || condition.frames >= frames {
            return Err(VideoError::invalid(
                "condition frames",
                format!(
                    "{} of {given} given frames, for a video of {frames}: at least 1, at most what \
                     is given, and fewer than the video has",
                    condition.frames
                ),
            ));
        }
        Ok(())
    }

    /// A refined video, without its padding.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_refined(
        &mut self,
        refined: &Refined<B>,
        observer: &mut dyn Observer,
    ) -> Result<PixelFrames, VideoError> {
        self.guarded(Stage::Decoding, |pipeline| {
            let pixels = pipeline.decode_pixels(refined.generated.latents.clone(), observer)?;
            let pixels = pixels.narrow(2, refined.first_frame, refined.frames);
            Ok(PixelFrames::from_tensor(pixels)?.swap_remove(0))
        })
    }
}

/// A refined video as latents, with what its padding was.
#[derive(Debug, Clone)]
pub struct Refined<B: KernelBackend> {
    /// Latents and what they were made with.
    pub generated: Generated<B>,
    /// First real frame after decoding.
    pub first_frame: usize,
    /// Number of real frames.
    pub frames: usize,
}

/// What refining without condition frames starts from: a first-stage video at the refined size and
/// (unless `spatial_only`) twice the rate, then its last frame until the latents, of `per_latent`
/// frames each, are a multiple of four. `[1, 3, F, H, W]` in [-1, 1].
pub fn refine_start<B: Backend>(
    video: &PixelFrames,
    size: VideoSize,
    spatial_only: bool,
    per_latent: usize,
    device: &B::Device,
) -> Tensor<B, 5> {
    let frames = video.len() * if spatial_only { 1 } else { 2 };
    let padding = RefinePadding::new(frames, 0, per_latent);
    upsample(video, size, frames, padding, device)
}

fn upsample<B: Backend>(
    video: &PixelFrames,
    size: VideoSize,
    frames: usize,
    padding: RefinePadding,
    device: &B::Device,
) -> Tensor<B, 5> {
    let clip = PixelFrames::raw_tensor::<B>([video], device);
    let clip = resample(resample(clip, 4, size.width), 3, size.height) / 255.0;
    let clip = resample(clip, 2, frames) * 2.0 - 1.0;
    let clip = repeat_first(clip, padding.front);
    let last = clip.clone().narrow(2, clip.dims()[2] - 1, 1);
    match padding.back {
        0 => clip,
        n => Tensor::cat(vec![clip, last.repeat_dim(2, n)], 2),
    }
}

fn repeat_first<B: Backend>(clip: Tensor<B, 5>, count: usize) -> Tensor<B, 5> {
    match count {
        0 => clip,
        n => Tensor::cat(vec![clip.clone().narrow(2, 0, 1).repeat_dim(2, n), clip], 2),
    }
}
