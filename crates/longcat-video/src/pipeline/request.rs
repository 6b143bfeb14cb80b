use longcat_vae::WanVaeConfig;

use crate::VideoError;
use crate::scheduler::ScheduleMode;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoSize {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl VideoSize {
    pub(crate) fn check(self, multiple: usize) -> Result<(), VideoError> {
        if self.width == 0
            || self.height == 0
            || !self.width.is_multiple_of(multiple)
            || !self.height.is_multiple_of(multiple)
        {
            let near = |x: usize| (x.max(1)).next_multiple_of(multiple);
            return Err(VideoError::invalid(
                "size",
                format!(
                    "{}x{} is not divisible by {multiple}; {}x{} would be",
                    self.width,
                    self.height,
                    near(self.width),
                    near(self.height)
                ),
            ));
        }
        Ok(())
    }
}

/// How a condition is taken from the VAE's posterior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Posterior {
    /// A sample, as the official pipelines do.
    #[default]
    Sample,
    /// Its mean.
    Mode,
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
}

impl Sampling {
    /// The official defaults: 50 steps with guidance 4.
    pub fn standard() -> Self {
        Self {
            steps: 50,
            guidance: 4.0,
            distill: false,
            max_sequence_length: 512,
        }
    }

    /// The official defaults with `cfg_step_lora`: 16 steps without guidance.
    pub fn distilled() -> Self {
        Self {
            steps: 16,
            guidance: 1.0,
            distill: true,
            max_sequence_length: 512,
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
        if self.max_sequence_length == 0 {
            return Err(VideoError::invalid(
                "max sequence length",
                "at least one text token is needed",
            ));
        }
        Ok(())
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
