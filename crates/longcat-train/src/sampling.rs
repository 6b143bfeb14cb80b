//! Random draws of training.
//!
//! Everything drawn for a sample is a function of the seed and of the sample's number in the run,
//! so that the position of the random numbers is the number of samples seen, a run that was
//! interrupted draws what it would have drawn, and batches of any size see the same draws.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::config::NoiseLevels;

/// What a stream of random numbers is for; each purpose has its own 2^40 streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// What is drawn for a sample, by its number in the run.
    Sample,
    /// The order of an epoch, by its number.
    Order,
    /// Dropout of a batch, by its number in the run.
    Dropout,
    /// Noise of a validation clip and noise level.
    Validation,
    /// Factors of a new adapter.
    Factors,
    /// Which caption and which part of its clip a sample has, by its number in the run.
    Choice,
    /// A purpose of a task outside this crate, by a number that the task gives it.
    Other(u8),
}

/// The stream number `index` of a purpose: equal arguments give equal numbers, on every machine.
pub fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha12Rng {
    let number = match purpose {
        Purpose::Sample => 0,
        Purpose::Order => 1,
        Purpose::Dropout => 2,
        Purpose::Validation => 3,
        Purpose::Factors => 4,
        Purpose::Other(number) => 5 + u64::from(number),
        Purpose::Choice => 5 + 256,
    };
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream((number << 40) + index);
    rng
}

/// Standard normal values.
pub fn normals(rng: &mut ChaCha12Rng, count: usize) -> Vec<f32> {
    let values = Distribution::<f32>::sample_iter(StandardNormal, rng);
    values.take(count).collect()
}

/// What is drawn for one sample, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draw {
    /// Decides between text-to-video, image-to-video and continuation (of the batch: its first
    /// sample decides).
    pub condition: f64,
    /// Whether the caption is left out.
    pub drop_caption: bool,
    /// Share of noise.
    pub sigma: f32,
    /// Noise of the objective.
    pub noise: Vec<f32>,
    /// Noise of the posterior.
    pub posterior: Vec<f32>,
}

impl Draw {
    /// The draws of sample `number` with `elements` latent values.
    pub(crate) fn new(
        seed: u64,
        number: u64,
        caption_dropout: f64,
        levels: NoiseLevels,
        elements: usize,
    ) -> Self {
        let mut rng = stream(seed, Purpose::Sample, number);
        Self {
            condition: rng.random(),
            drop_caption: rng.random::<f64>() < caption_dropout,
            sigma: sigma(&mut rng, levels) as f32,
            noise: normals(&mut rng, elements),
            posterior: normals(&mut rng, elements),
        }
    }
}

/// A noise level in (0, 1).
fn sigma(rng: &mut ChaCha12Rng, levels: NoiseLevels) -> f64 {
    match levels {
        NoiseLevels::Uniform => open_unit(rng),
        NoiseLevels::Shifted { shift } => {
            let u = open_unit(rng);
            shift * u / (1.0 + (shift - 1.0) * u)
        }
        NoiseLevels::LogitNormal { mean, deviation } => {
            let normal: f64 = StandardNormal.sample(rng);
            let x = mean + deviation * normal;
            1.0 / (1.0 + (-x).exp())
        }
    }
}

/// Uniform in (0, 1), without the ends.
pub fn open_unit(rng: &mut ChaCha12Rng) -> f64 {
    rng.random::<f64>().max(f64::EPSILON)
}

/// Which features of a layer's input a step keeps: 0, or 1 over the share of those kept.
pub(crate) fn dropout_mask(rng: &mut ChaCha12Rng, features: usize, share: f64) -> Vec<f32> {
    let kept = (1.0 / (1.0 - share)) as f32;
    (0..features)
        .map(|_| {
            if rng.random::<f64>() < share {
                0.0
            } else {
                kept
            }
        })
        .collect()
}

/// What is chosen for one sample where its clip has several of a kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    window: f64,
    caption: f64,
}

impl Choice {
    /// The choices of sample `number`.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut rng = stream(seed, Purpose::Choice, number);
        Self {
            window: rng.random(),
            caption: rng.random(),
        }
    }

    /// Which of so many parts of the clip.
    pub(crate) fn window(self, count: usize) -> usize {
        (self.window * count as f64) as usize
    }

    /// Which of so many captions.
    pub(crate) fn caption(self, count: usize) -> usize {
        (self.caption * count as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sigmas(levels: NoiseLevels) -> Vec<f64> {
        let mut values: Vec<f64> = (0..4001)
            .map(|i| f64::from(Draw::new(7, i, 0.1, levels, 0).sigma))
            .collect();
        values.sort_by(f64::total_cmp);
        assert!(values[0] > 0.0 && *values.last().unwrap() <= 1.0);
        values
    }

    #[test]
    fn noise_levels_have_the_medians_of_their_distributions() {
        let median = |t| sigmas(t)[2000];
        let logit_normal = NoiseLevels::LogitNormal {
            mean: 0.0,
            deviation: 1.0,
        };
        assert!((median(NoiseLevels::Uniform) - 0.5).abs() < 0.03);
        assert!((median(logit_normal) - 0.5).abs() < 0.03);
        assert!((median(NoiseLevels::Shifted { shift: 12.0 }) - 12.0 / 13.0).abs() < 0.01);
    }
}
