//! What the encoder predicts, and how latents are taken from it.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// How latents are taken from a [`Posterior`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LatentDraw {
    /// A sample, as the official pipelines do.
    #[default]
    Sample,
    /// The mode, which is the mean of a Gaussian.
    Mode,
}

/// The diagonal Gaussian that the encoder predicts, over latents that are not normalised.
#[derive(Debug, Clone)]
pub struct Posterior<B: Backend> {
    /// Means `[B, z, T, h, w]`, f32.
    pub mean: Tensor<B, 5>,
    /// Natural logarithms of the variances, same shape, clamped to [-30, 20].
    pub logvar: Tensor<B, 5>,
}

impl<B: Backend> Posterior<B> {
    /// Splits the encoder's output `[B, 2z, T, h, w]` into means and log-variances.
    pub(crate) fn from_moments(moments: Tensor<B, 5>) -> Self {
        let mut halves = moments.cast(DType::F32).chunk(2, 1).into_iter();
        match (halves.next(), halves.next()) {
            (Some(mean), Some(logvar)) => Self {
                mean,
                logvar: logvar.clamp(-30.0, 20.0),
            },
            _ => unreachable!("the encoder has an even number of output channels"),
        }
    }

    /// The latent that `noise` (standard normal, the shape of the mean up to broadcasting) draws:
    /// mean + exp(logvar / 2) · noise.
    pub fn sample(&self, noise: Tensor<B, 5>) -> Tensor<B, 5> {
        let deviation = (self.logvar.clone() * 0.5).exp();
        self.mean.clone() + deviation * noise.cast(DType::F32)
    }
}
