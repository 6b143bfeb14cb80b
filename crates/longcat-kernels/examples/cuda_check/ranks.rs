//! Sums over all visible GPUs, as if each were another process's.

use std::thread;

use burn::tensor::Tensor;
use longcat_kernels::{RankGroup, cuda_device_count, sum_over_ranks};

use crate::{Device, Gpu};

const ROUNDS: usize = 20;
/// As small as a bias, one pack, and several with a rest.
const ELEMENTS: [usize; 3] = [1000, 1 << 22, 9_876_543];

/// Whether all sums are right, to the bit.
pub(crate) fn run() -> bool {
    let size = cuda_device_count();
    let id = match RankGroup::new_id() {
        Ok(id) => id,
        Err(problem) => {
            println!("ranks: {problem}");
            return false;
        }
    };
    let wrong: usize = thread::scope(|scope| {
        let id = &id;
        let threads: Vec<_> = (0..size)
            .map(|rank| scope.spawn(move || wrong(rank, size, id)))
            .collect();
        let wrong = threads.into_iter().map(|t| t.join().unwrap_or(1));
        wrong.sum()
    });
    let made = size * ROUNDS * ELEMENTS.len();
    println!("ranks: {wrong} of {made} sums over {size} GPUs are wrong");
    wrong == 0
}

/// A whole number, so that sums are exact.
fn value(at: usize, round: usize, rank: usize) -> f32 {
    ((at * 31 + round * 3 + rank * 7) % 8191) as f32
}

/// How many sums on one device are wrong.
fn wrong(rank: usize, size: usize, id: &[u8]) -> usize {
    let device = Device::new(rank);
    let group = match RankGroup::join(&device, id, rank, size) {
        Ok(group) => group,
        Err(problem) => {
            println!("rank {rank}: {problem}");
            return ROUNDS * ELEMENTS.len();
        }
    };
    let mut wrong = 0;
    for round in 0..ROUNDS {
        for elements in ELEMENTS {
            let half: Vec<f32> = (0..elements)
                .map(|at| value(at, round, rank) / 2.0)
                .collect();
            // Computed just before the sum, and used just after it.
            let own = Tensor::<Gpu, 1>::from_floats(half.as_slice(), &device) * 2.0;
            let found = sum_over_ranks(own, &group).map(|sums| (sums + 1.0).into_data());
            let found = found.and_then(|found| found.to_vec::<f32>().ok());
            let expected = |at: usize| -> f32 { (0..size).map(|r| value(at, round, r)).sum() };
            let right = found.is_some_and(|found| {
                let mut all = found.iter().enumerate();
                found.len() == elements && all.all(|(at, sum)| *sum == expected(at) + 1.0)
            });
            wrong += usize::from(!right);
        }
    }
    wrong
}
