//! Uploads by several threads, into memory that was in use a moment before.

use std::thread;

use burn::tensor::{DType, Distribution, Tensor};
use longcat_kernels::KernelDevice;

use crate::{Device, Gpu, float};

const THREADS: usize = 12;
const ROUNDS: usize = 20;
/// Below what is uploaded by way of page-locked memory, one buffer's worth, and many with a rest.
const ELEMENTS: [usize; 4] = [1000, 200_000, 1 << 20, 9_876_543];

/// Whether everything arrives as it was sent.
pub(crate) fn run(device: &Device) -> bool {
    let wrong: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || wrong(number, device)))
            .collect();
        let wrong = threads.into_iter().map(|t| t.join().unwrap_or(1));
        wrong.sum()
    });
    let sent = THREADS * ROUNDS * ELEMENTS.len();
    println!("upload: {wrong} of {sent} tensors are wrong");
    wrong == 0
}

/// How many tensors of one thread are not what was sent.
fn wrong(number: usize, device: &Device) -> usize {
    let mut wrong = 0;
    for round in 0..ROUNDS {
        for (i, elements) in ELEMENTS.into_iter().enumerate() {
            // Memory of this size is written to until just before it is used again.
            let uniform = Distribution::Uniform(-1.0, 1.0);
            let busy = Tensor::<Gpu, 1>::random([elements], uniform, device);
            drop(busy.clone() * 2.0);
            drop(busy);
            let sent: Vec<f32> = (0..elements)
                .map(|at| ((at * 31 + number * 7 + round * 3 + i) % 8191) as f32)
                .collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|x| x.to_le_bytes()).collect();
            let row = float::<Gpu, 1>(Gpu::float_from_bytes(&bytes, DType::F32, device));
            // The bytes may go at once.
            drop(bytes);
            let found = (row + 1.0).into_data().to_vec::<f32>().unwrap_or_default();
            let same = found.len() == sent.len();
            let same = same && found.iter().zip(&sent).all(|(a, b)| *a == b + 1.0);
            wrong += usize::from(!same);
        }
    }
    wrong
}
