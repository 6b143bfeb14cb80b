//! Flow-match Euler schedules.

use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_weights::{ConfigError, JsonConfig};
use serde_json::Value;

use crate::VideoError;

/// Steps of the schedule that the distilled adapter was trained on.
const DISTILL_STEPS: usize = 50;
/// Where the uniform tail of `enhance_hf` begins, and its number of steps.
const TAIL_START: f32 = 500.0;
const TAIL_STEPS: usize = 10;

/// Keys of `scheduler_config.json` for features that LongCat-Video does not use: false leaves each
/// of them off.
const MUST_BE_OFF: &[&str] = &[
    "invert_sigmas",
    "stochastic_sampling",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_karras_sigmas",
];
/// Keys that only matter to features that are off.
const WITHOUT_EFFECT: &[&str] = &[
    "base_image_seq_len",
    "base_shift",
    "max_image_seq_len",
    "max_shift",
    "time_shift_type",
];

/// `scheduler/scheduler_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMatchScheduler {
    /// Timestep of pure noise.
    pub num_train_timesteps: usize,
    /// Shift s in σ' = s·σ / (1 + (s − 1)·σ).
    pub shift: f64,
}

/// Which sampling steps to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScheduleMode {
    /// Evenly spaced before the shift.
    Plain,
    /// Steps of the table of the distilled adapter.
    Distill,
    /// [`Plain`](Self::Plain) above timestep 500, then 500, 450, … 50: finer in the range where
    /// high frequencies form.
    EnhanceHighFrequencies,
    /// Starts at `threshold` (0 to 1) and keeps the smaller timesteps of the plain schedule.
    Refine {
        /// Share of noise at the start.
        threshold: f32,
    },
}

/// Timesteps and noise levels of one sampling run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Noise levels before the shift.
    pub input_sigmas: Vec<f32>,
    /// Timestep of every step, 1000 (noise) to 0 (clean).
    pub timesteps: Vec<f32>,
    /// Noise level before every step, and 0 after the last.
    pub sigmas: Vec<f32>,
}

impl FlowMatchScheduler {
    /// That of the released checkpoint.
    pub const RELEASED: Self = Self {
        num_train_timesteps: 1000,
        shift: 12.0,
    };

    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names an unknown key or a feature that is switched on and not supported.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut keys = JsonConfig::read(path)?;
        for key in MUST_BE_OFF {
            keys.require(key, false)?;
        }
        keys.require("shift_terminal", Value::Null)?;
        keys.ignore(|key, _| key.starts_with('_') || WITHOUT_EFFECT.contains(&key));
        let scheduler = Self {
            num_train_timesteps: keys.take("num_train_timesteps")?,
            shift: keys.take("shift")?,
        };
        keys.finish()?;
        Ok(scheduler)
    }

    /// The schedule of `steps` steps.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] for no steps, more distilled steps than the table holds, or a
    /// threshold outside (0, 1].
    pub fn schedule(&self, steps: usize, mode: ScheduleMode) -> Result<Schedule, VideoError> {
        if steps == 0 {
            return Err(VideoError::invalid("steps", "at least one step is needed"));
        }
        if mode == ScheduleMode::Distill && steps > DISTILL_STEPS {
            return Err(VideoError::invalid(
                "steps",
                format!("{steps} distilled steps; the table has {DISTILL_STEPS}"),
            ));
        }
        let input_sigmas: Vec<f32> = match mode {
            ScheduleMode::Distill => (0..steps).map(|i| self.distilled_sigma(i, steps)).collect(),
            _ => (0..steps).map(|i| linspace(1.0, 0.001, steps, i)).collect(),
        };
        let scale = self.num_train_timesteps as f32;
        let shift = self.shift as f32;
        let mut sigmas: Vec<f32> = input_sigmas
            .iter()
            .map(|s| shift * s / (1.0 + (shift - 1.0) * s))
            .collect();
        let mut timesteps: Vec<f32> = sigmas.iter().map(|s| s * scale).collect();
        match mode {
            ScheduleMode::Plain | ScheduleMode::Distill => {}
            ScheduleMode::EnhanceHighFrequencies => {
                timesteps.retain(|t| *t > TAIL_START);
                let step = TAIL_START / TAIL_STEPS as f32;
                timesteps.extend((0..TAIL_STEPS).map(|i| TAIL_START - step * i as f32));
                sigmas = timesteps.iter().map(|t| t / scale).collect();
            }
            ScheduleMode::Refine { threshold } => {
                if !(threshold > 0.0 && threshold <= 1.0) {
                    return Err(VideoError::invalid(
                        "threshold",
                        format!("{threshold} is not above 0 and at most 1"),
                    ));
                }
                let first = threshold * scale;
                timesteps.retain(|t| *t < first);
                timesteps.insert(0, first);
                sigmas = timesteps.iter().map(|t| t / scale).collect();
            }
        }
        sigmas.push(0.0);
        Ok(Schedule {
            input_sigmas,
            timesteps,
            sigmas,
        })
    }

    fn distilled_sigma(&self, step: usize, steps: usize) -> f32 {
        let index = (DISTILL_STEPS as f64 / steps as f64 * step as f64).floor() as usize;
        let train = self.num_train_timesteps;
        let timestep = (DISTILL_STEPS - index) * (train / DISTILL_STEPS);
        timestep as f32 / train as f32
    }
}

/// As PyTorch's `linspace` in fp32: counted from the nearer end.
fn linspace(start: f32, end: f32, count: usize, i: usize) -> f32 {
    if count == 1 {
        return start;
    }
    let step = (end - start) / (count - 1) as f32;
    if i < count / 2 {
        start + step * i as f32
    } else {
        end - step * (count - 1 - i) as f32
    }
}

impl Schedule {
    /// Number of steps.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Whether there is no step, which [`FlowMatchScheduler::schedule`] never returns.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// One Euler step from `sample` along `velocity` (noise − x0), in fp32.
    ///
    /// # Panics
    /// If `step` is not below [`Self::len`].
    pub fn step<B: Backend, const D: usize>(
        &self,
        sample: Tensor<B, D>,
        velocity: Tensor<B, D>,
        step: usize,
    ) -> Tensor<B, D> {
        let delta = self.sigmas[step + 1] - self.sigmas[step];
        sample.cast(DType::F32) + velocity.cast(DType::F32) * delta
    }
}
