//! What the loss asks for.

/// What is trained, from the sections `[objective]` and `[distill]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// Flow matching to the clips.
    Clips {
        /// How noise levels are drawn.
        noise: NoiseLevels,
        /// How often frames of the clips are given.
        conditions: ConditionShares,
    },
    /// The way from an upsampled first-stage clip with noise to the clip.
    Refine {
        /// How shares of the way are drawn.
        noise: NoiseLevels,
        /// Share of noise that the way begins with, above 0 and at most 1.
        threshold: f64,
    },
    /// Guidance and steps of the base model, for an adapter that does without them.
    Distill {
        /// Guidance scale of the teacher, above 1.
        guidance: Option<f64>,
        /// Steps of the distilled schedule that the adapter is for; only its noise levels are trained.
        steps: usize,
        /// Steps of the teacher for each of them.
        teacher_steps: usize,
        /// How often frames of the clips are given.
        conditions: ConditionShares,
    },
}

impl Objective {
    /// How often frames of the clips are given; never in refining.
    pub fn conditions(&self) -> ConditionShares {
        match self {
            Self::Clips { conditions, .. } | Self::Distill { conditions, .. } => *conditions,
            Self::Refine { .. } => ConditionShares::default(),
        }
    }

    /// Share of noise that refining begins with, if that is what is trained.
    pub fn threshold(&self) -> Option<f64> {
        match self {
            Self::Refine { threshold, .. } => Some(*threshold),
            Self::Clips { .. } | Self::Distill { .. } => None,
        }
    }
}

/// How noise levels σ are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NoiseLevels {
    /// σ uniform in (0, 1).
    Uniform,
    /// σ = sigmoid of a normal variable.
    LogitNormal {
        /// Mean of the normal variable.
        mean: f64,
        /// Its standard deviation.
        deviation: f64,
    },
    /// σ = s·u / (1 + (s − 1)·u) with u uniform, as the scheduler spaces its steps.
    Shifted {
        /// The shift s.
        shift: f64,
    },
}

/// Shares of batches whose first latent frames are clean condition frames.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ConditionShares {
    /// Share that begins with a clean first latent frame.
    pub image: f64,
    /// Share that continues `latents` clean latent frames.
    pub continuation: f64,
    /// Latent frames of a continuation's condition.
    pub latents: usize,
}
