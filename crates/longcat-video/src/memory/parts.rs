//! Blocks or layers of which some stay on a device.

use longcat_kernels::streamed_blocks;

/// Bytes of the blocks or layers of a model, in the order of their use.
///
/// Of those that do not stay, the one in use and the next one are on the device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts(Vec<u64>);

impl Parts {
    /// Parts of these sizes.
    pub fn new(bytes: Vec<u64>) -> Self {
        Self(bytes)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Bytes of each.
    pub fn each(&self) -> &[u64] {
        &self.0
    }

    /// Bytes of those that pass through the device where so many stay, in the order of their use.
    pub fn streamed(&self, resident: usize) -> Vec<u64> {
        let streamed = streamed_blocks(self.count(), resident);
        streamed.into_iter().map(|part| self.0[part]).collect()
    }

    /// Bytes on the device at once where so many stay.
    ///
    /// Pools keep memory of each size that was needed, so that those that pass through it take as much as the
    /// most of each size that are there at a time.
    pub fn bytes(&self, resident: usize) -> u64 {
        let streamed = self.streamed(resident);
        let mut stay = self.held(resident);
        let mut sizes = streamed.clone();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            let twice = streamed.windows(2).any(|pair| pair == [size; 2]);
            stay += if twice { 2 * size } else { size };
        }
        stay
    }

    /// Bytes of those that stay where so many do, while none is used: none of the others is there then.
    pub fn held(&self, resident: usize) -> u64 {
        let all: u64 = self.0.iter().sum();
        all - self.streamed(resident).iter().sum::<u64>()
    }

    /// The most of them that stay within `room` bytes beside those that pass through.
    pub fn most_resident(&self, room: u64) -> Option<usize> {
        (0..=self.count())
            .rev()
            .find(|resident| self.bytes(*resident) <= room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_those_that_pass_through_are_there() {
        let equal = Parts::new(vec![10; 8]);
        for (resident, bytes) in [(8, 80), (9, 80), (7, 80), (6, 80), (5, 70), (0, 20)] {
            assert_eq!(equal.bytes(resident), bytes, "{resident}");
        }
        assert_eq!(equal.most_resident(79), Some(5));
        assert_eq!(equal.most_resident(19), None);
        assert_eq!(Parts::default().most_resident(0), Some(0));
        // The first and the last one are larger and never beside each other: two small ones and one large.
        let mut sizes = vec![10; 8];
        (sizes[0], sizes[7]) = (30, 30);
        let ends = Parts::new(sizes);
        assert_eq!(ends.bytes(8), 120);
        assert_eq!(ends.bytes(0), 2 * 10 + 30);
        // Every other one, the last among them.
        assert_eq!(ends.streamed(4), [10, 10, 10, 30]);
        assert_eq!(ends.bytes(4), 60 + 20 + 30);
        assert_eq!([ends.held(8), ends.held(4), ends.held(0)], [120, 60, 0]);
    }
}
