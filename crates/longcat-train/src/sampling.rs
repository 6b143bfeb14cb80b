//! Random draws of training.
//!
//! Everything drawn for a sample is a function of the seed and of the sample's number in the run,
//! so that the position of the random numbers is the number of samples seen, a run that was
//! interrupted draws what it would have drawn, and batches of any size see the same draws.

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::config::{ObjectiveConfig, TimestepSampling};

/// What a stream of random numbers is for; each purpose has its own 2^40 streams.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Sample,
    Order,
    Dropout,
    Validation,
    Factors,
    OwnChance,
    OwnCondition,
}

/// The stream number `index` of a purpose.
pub(crate) fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(((purpose as u64) << 40) + index);
    rng
}

/// Standard normal values.
pub(crate) fn normals(rng: &mut ChaCha12Rng, count: usize) -> Vec<f32> {
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
        objective: &ObjectiveConfig,
        elements: usize,
    ) -> Self {
        let mut rng = stream(seed, Purpose::Sample, number);
        Self {
            condition: rng.random(),
            drop_caption: rng.random::<f64>() < objective.caption_dropout,
            sigma: sigma(&mut rng, objective) as f32,
            noise: normals(&mut rng, elements),
            posterior: normals(&mut rng, elements),
        }
    }
}

/// More noise than this leaves a model with two steps nothing to tell a shape from.
const MOST_OWN_NOISE: f64 = 0.8;

/// Whether the batch that begins with sample `number` may have a condition of the model's own
/// making, which a `share` of them has.
pub(crate) fn own_chance(seed: u64, number: u64, share: f64) -> bool {
    stream(seed, Purpose::OwnChance, number).random::<f64>() < share
}

/// What the model starts from for such a condition of sample `number`: noise of `elements` latent
/// values, and the share of it.
pub(crate) fn own_noise(seed: u64, number: u64, elements: usize) -> (Vec<f32>, f32) {
    let mut rng = stream(seed, Purpose::OwnCondition, number);
    let sigma = (MOST_OWN_NOISE * open_unit(&mut rng)) as f32;
    (normals(&mut rng, elements), sigma)
}

/// A noise level in (0, 1).
fn sigma(rng: &mut ChaCha12Rng, objective: &ObjectiveConfig) -> f64 {
    match objective.timesteps {
        TimestepSampling::Uniform => open_unit(rng),
        TimestepSampling::Shifted => {
            let u = open_unit(rng);
            objective.shift * u / (1.0 + (objective.shift - 1.0) * u)
        }
        TimestepSampling::LogitNormal => {
            let normal: f64 = StandardNormal.sample(rng);
            let x = objective.logit_mean + objective.logit_std * normal;
            1.0 / (1.0 + (-x).exp())
        }
    }
}

/// Uniform in (0, 1), without the ends.
fn open_unit(rng: &mut ChaCha12Rng) -> f64 {
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

/// Which samples come in which batch of an epoch.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    seed: u64,
    batch: usize,
    /// Entry numbers by group (one latent shape each), repeats included.
    groups: Vec<Vec<usize>>,
}

impl Order {
    /// `items` are pairs of a shape and how often it comes in an epoch.
    pub(crate) fn new<K: Ord + Copy>(seed: u64, batch: usize, items: &[(K, usize)]) -> Self {
        let mut keys: Vec<K> = items.iter().map(|(key, _)| *key).collect();
        keys.sort();
        keys.dedup();
        let group = |key: &K| {
            let members = items.iter().enumerate().filter(|(_, (k, _))| k == key);
            let repeated = members.flat_map(|(i, (_, repeats))| std::iter::repeat_n(i, *repeats));
            repeated.collect::<Vec<usize>>()
        };
        let mut groups: Vec<Vec<usize>> = keys.iter().map(group).collect();
        groups.retain(|group| !group.is_empty());
        Self {
            seed,
            batch,
            groups,
        }
    }

    /// Batches per epoch.
    pub(crate) fn batches_per_epoch(&self) -> usize {
        let batches = self.groups.iter().map(|g| g.len().div_ceil(self.batch));
        batches.sum()
    }

    /// The entries of batch number `index` of the run. Batches hold one shape; the last batch of a
    /// shape in an epoch is filled from the front of its order.
    pub(crate) fn batch(&self, index: u64) -> Vec<usize> {
        let per_epoch = self.batches_per_epoch() as u64;
        let mut rng = stream(self.seed, Purpose::Order, index / per_epoch);
        let mut batches = Vec::new();
        for group in &self.groups {
            let mut order = group.clone();
            order.shuffle(&mut rng);
            let padded = order.len().next_multiple_of(self.batch);
            let filled: Vec<usize> = order.iter().copied().cycle().take(padded).collect();
            batches.extend(filled.chunks(self.batch).map(<[usize]>::to_vec));
        }
        if self.groups.len() > 1 {
            batches.shuffle(&mut rng);
        }
        batches.swap_remove((index % per_epoch) as usize)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sigmas(timesteps: TimestepSampling) -> Vec<f64> {
        let objective = ObjectiveConfig {
            timesteps,
            ..ObjectiveConfig::default()
        };
        let mut values: Vec<f64> = (0..4001)
            .map(|i| f64::from(Draw::new(7, i, &objective, 0).sigma))
            .collect();
        values.sort_by(f64::total_cmp);
        assert!(values[0] > 0.0 && *values.last().unwrap() <= 1.0);
        values
    }

    #[test]
    fn noise_levels_have_the_medians_of_their_distributions() {
        let median = |t| sigmas(t)[2000];
        assert!((median(TimestepSampling::Uniform) - 0.5).abs() < 0.03);
        assert!((median(TimestepSampling::LogitNormal) - 0.5).abs() < 0.03);
        assert!((median(TimestepSampling::Shifted) - 12.0 / 13.0).abs() < 0.01);
    }

    #[test]
    fn an_epoch_holds_every_sample_and_no_batch_mixes_shapes() {
        let items = [(1, 1), (2, 2), (1, 1), (1, 1), (2, 0)];
        let order = Order::new(3, 2, &items);
        assert_eq!(order.batches_per_epoch(), 3);
        for epoch in 0..5 {
            let batches: Vec<_> = (0..3).map(|i| order.batch(epoch * 3 + i)).collect();
            for entry in 0..4 {
                assert!(batches.iter().flatten().any(|e| *e == entry), "{batches:?}");
            }
            for batch in &batches {
                assert_eq!(batch.len(), 2);
                assert_eq!(items[batch[0]].0, items[batch[1]].0);
            }
        }
    }

    #[test]
    fn one_by_one_and_in_batches_the_order_is_the_same() {
        let items = [((), 3), ((), 1), ((), 4)];
        let (single, double) = (Order::new(1, 1, &items), Order::new(1, 2, &items));
        let one: Vec<usize> = (0..8).flat_map(|i| single.batch(i)).collect();
        let two: Vec<usize> = (0..4).flat_map(|i| double.batch(i)).collect();
        assert_eq!(one, two);
    }
}
