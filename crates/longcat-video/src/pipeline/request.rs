//! What the requests have in common.

use longcat_media::VideoSize;
use longcat_vae::WanVaeConfig;

use super::EasyCache;
use crate::VideoError;
use crate::scheduler::ScheduleMode;

/// Refuses a size whose sides are not divisible by `multiple`.
pub(crate) fn check_size(size: VideoSize, multiple: usize) -> Result<(), VideoError> {
    let VideoSize { width, height } = size;
    let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
    if fits(width) && fits(height) {
        return Ok(());
    }
    let near = |side: usize| side.max(1).next_multiple_of(multiple);
    Err(VideoError::invalid(
        "size",
        format!(
            "{size} is not divisible by {multiple}; {} would be",
            VideoSize::new(near(width), near(height))
        ),
    ))
}

/// Settings that every denoising run has.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale; 1 or less runs the transformer once per step and takes no negative prompt.
    pub guidance: f64,
    /// Use the schedule of the distilled adapter.
    pub distill: bool,
    /// Text tokens per prompt.
    pub max_sequence_length: usize,
    /// When passes of the transformer are left out; `None`, the default, computes all.
    pub cache: Option<EasyCache>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::standard()
    }
}

impl Sampling {
    /// The official defaults: 50 steps with guidance 4.
    pub fn standard() -> Self {
        Self {
            steps: 50,
            guidance: 4.0,
            distill: false,
            max_sequence_length: 512,
            cache: None,
        }
    }

    /// The official defaults with `cfg_step_lora`: 16 steps without guidance.
    pub fn distilled() -> Self {
        Self {
            steps: 16,
            guidance: 1.0,
            distill: true,
            max_sequence_length: 512,
            cache: None,
        }
    }

    pub(crate) fn mode(&self) -> ScheduleMode {
        if self.distill {
            ScheduleMode::Distill
        } else {
            ScheduleMode::Plain
        }
    }

    pub(crate) fn check(&self) -> Result<(), VideoError> {
        if !self.guidance.is_finite() {
            return Err(VideoError::invalid(
                "guidance",
                format!("{} is not a finite number", self.guidance),
            ));
        }
        if self.guidance < 0.0 {
            return Err(VideoError::invalid(
                "guidance",
                format!("{} is below 0; without guidance it is 1", self.guidance),
            ));
        }
        if self.max_sequence_length == 0 {
            return Err(VideoError::invalid(
                "max sequence length",
                "at least one text token is needed",
            ));
        }
        self.cache.map_or(Ok(()), |cache| cache.check())
    }
}

/// Latent frames of a clip of as many frames as the setting `what` says.
pub(crate) fn latent_frames(
    what: &'static str,
    frames: usize,
    vae: &WanVaeConfig,
) -> Result<usize, VideoError> {
    let per_latent = vae.scale_factor_temporal;
    if frames % per_latent != 1 % per_latent {
        let below = frames.saturating_sub(1) / per_latent * per_latent + 1;
        return Err(VideoError::invalid(
            what,
            format!(
                "{frames} is not 1 more than a multiple of {per_latent}; {below} or {} would be",
                below + per_latent
            ),
        ));
    }
    Ok((frames - 1) / per_latent + 1)
}
