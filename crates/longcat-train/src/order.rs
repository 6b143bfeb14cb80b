//! The order of samples, without a list of them.

use rand::{Rng, seq::SliceRandom};

use crate::TrainError;
use crate::sampling::{Purpose, stream};

/// Which samples come in which batch of an epoch.
#[derive(Debug, Clone)]
pub struct BatchOrder {
    seed: u64,
    batch: u64,
    /// A group for each key.
    groups: Vec<Group>,
}

/// Entries that may come in one batch.
#[derive(Debug, Clone, Default)]
struct Group {
    /// Entry numbers, each with the number of samples up to and including its own.
    entries: Vec<(u64, usize)>,
}

impl Group {
    /// Samples in an epoch.
    fn samples(&self) -> u64 {
        self.entries.last().map_or(0, |(end, _)| *end)
    }

    /// The entry of a sample.
    fn entry(&self, sample: u64) -> usize {
        let before = self.entries.partition_point(|(end, _)| *end <= sample);
        self.entries[before].1
    }
}

impl BatchOrder {
    /// `items` are pairs of a shape and how often it comes in `repeats` passes, which make an epoch.
    ///
    /// # Errors
    /// [`TrainError::EpochTooLong`].
    pub fn new<K: Ord + Copy>(
        seed: u64,
        batch: usize,
        items: &[(K, usize)],
        repeats: usize,
    ) -> Result<Self, TrainError> {
        let mut keys: Vec<K> = items.iter().map(|(key, _)| *key).collect();
        keys.sort();
        keys.dedup();
        let mut groups = vec![Group::default(); keys.len()];
        let mut samples = 0u64;
        for (entry, (key, count)) in items.iter().enumerate() {
            let count = (*count as u64).checked_mul(repeats as u64);
            let sum = count.and_then(|count| samples.checked_add(count));
            let (Some(count), Some(sum)) = (count, sum.filter(|sum| *sum <= 1 << 63)) else {
                return Err(TrainError::EpochTooLong);
            };
            samples = sum;
            if let (Ok(group), 1..) = (keys.binary_search(key), count) {
                let end = groups[group].samples() + count;
                groups[group].entries.push((end, entry));
            }
        }
        groups.retain(|group| group.samples() > 0);
        Ok(Self {
            seed,
            batch: batch as u64,
            groups,
        })
    }

    /// Batches per epoch.
    pub fn batches_per_epoch(&self) -> usize {
        let batches = self.groups.iter().map(|g| g.samples().div_ceil(self.batch));
        batches.sum::<u64>() as usize
    }

    /// The entries of batch number `index` of the run. Batches hold one shape; the last batch of a
    /// shape in an epoch is filled from the front of its order.
    pub fn batch(&self, index: u64) -> Vec<usize> {
        let per_epoch = self.batches_per_epoch() as u64;
        let mut rng = stream(self.seed, Purpose::Order, index / per_epoch);
        let groups = self.groups.iter();
        let orders: Vec<Shuffled> = groups
            .map(|group| Shuffled::new(group.samples(), &mut rng))
            .collect();
        let mut place = index % per_epoch;
        if self.groups.len() > 1 {
            place = Shuffled::new(per_epoch, &mut rng).at(place);
        }
        for (group, order) in self.groups.iter().zip(orders) {
            let samples = group.samples();
            let batches = samples.div_ceil(self.batch);
            if place < batches {
                let places = (0..self.batch).map(|i| (place * self.batch + i) % samples);
                return places.map(|place| group.entry(order.at(place))).collect();
            }
            place -= batches;
        }
        Vec::new()
    }
}

/// Lengths up to which an order is a list.
const LISTED: u64 = 1 << 20;

/// The numbers below a length in a random order.
#[derive(Debug, Clone)]
enum Shuffled {
    Listed(Vec<u64>),
    /// Too many for a list: a Feistel network over the bits of a number is one to one whatever its
    /// rounds do, and where it leaves the range it is applied again.
    Ciphered {
        length: u64,
        /// Bits of either half.
        half: u32,
        keys: [u64; 8],
    },
}

impl Shuffled {
    fn new(length: u64, rng: &mut impl Rng) -> Self {
        if length <= LISTED {
            let mut order: Vec<u64> = (0..length).collect();
            order.shuffle(rng);
            return Self::Listed(order);
        }
        Self::Ciphered {
            length,
            half: (64 - (length - 1).leading_zeros()).div_ceil(2),
            keys: rng.random(),
        }
    }

    fn at(&self, place: u64) -> u64 {
        match self {
            Self::Listed(order) => order[place as usize],
            Self::Ciphered { length, half, keys } => {
                let mask = (1 << half) - 1;
                let mut number = place;
                loop {
                    let (mut left, mut right) = (number >> half, number & mask);
                    for key in keys {
                        (left, right) = (right, left ^ (scrambled(right ^ key) & mask));
                    }
                    number = left << half | right;
                    if number < *length {
                        return number;
                    }
                }
            }
        }
    }
}

/// A number that depends on all bits of another: the end of SplitMix64.
fn scrambled(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_epoch_holds_every_sample_and_no_batch_mixes_shapes() {
        let items = [(1, 1), (2, 2), (1, 1), (1, 1), (2, 0)];
        let order = BatchOrder::new(3, 2, &items, 1).unwrap();
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
        let order = |batch| BatchOrder::new(1, batch, &items, 1).unwrap();
        let (single, double) = (order(1), order(2));
        let one: Vec<usize> = (0..8).flat_map(|i| single.batch(i)).collect();
        let two: Vec<usize> = (0..4).flat_map(|i| double.batch(i)).collect();
        assert_eq!(one, two);
    }

    #[test]
    fn an_epoch_may_be_longer_than_any_list() {
        let items = [(0, 100_000_000), (0, 300_000_000), (1, 7)];
        let order = BatchOrder::new(5, 4, &items, 1_000).unwrap();
        assert_eq!(order.batches_per_epoch(), 100_000_001_750);
        let mut counts = [0; 3];
        for index in 0..2_000 {
            for entry in order.batch(index) {
                counts[entry] += 1;
            }
        }
        let share = f64::from(counts[0]) / 8_000.0;
        assert!((share - 0.25).abs() < 0.025, "{counts:?}");
        let too_long = BatchOrder::new(5, 1, &[((), usize::MAX), ((), 9)], 2);
        assert!(matches!(too_long, Err(TrainError::EpochTooLong)));
    }

    #[test]
    fn what_is_too_long_for_a_list_is_in_a_random_order_too() {
        let length = LISTED + 3;
        let mut rng = stream(1, Purpose::Order, 0);
        let order = Shuffled::new(length, &mut rng);
        let all: HashSet<u64> = (0..length).map(|place| order.at(place)).collect();
        assert_eq!(all.len() as u64, length);
        assert!(all.iter().all(|number| *number < length));
        // Neighbours lie as far apart as independent numbers do: a third of the length.
        let distances = (0..10_000).map(|i| order.at(i).abs_diff(order.at(i + 1)) as f64);
        let mean = distances.sum::<f64>() / 10_000.0 / length as f64;
        assert!((mean - 1.0 / 3.0).abs() < 0.02, "{mean}");
    }
}
