//! Seeded noise.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use longcat_weights::upload;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};

/// What noise is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoisePurpose {
    /// The latents that denoising starts from.
    Initial,
    /// The n-th sample of a VAE posterior in a run.
    Posterior(u32),
    /// What refining adds to the upsampled latents.
    Refine,
}

impl NoisePurpose {
    fn stream(self) -> u64 {
        match self {
            Self::Initial => 0,
            Self::Refine => 1,
            Self::Posterior(n) => 2 + u64::from(n),
        }
    }
}

/// Where the pipelines take their randomness from.
pub trait NoiseSource {
    /// Standard normal values in the order of `shape` `[B, C, T, H, W]`.
    fn draw(&mut self, purpose: NoisePurpose, shape: [usize; 5]) -> Vec<f32>;
}

/// Noise by seed, made on the host, so that a seed means the same video on every backend.
///
/// Sample `i` of a batch uses the seed plus `i`: a batch gives what its prompts give one by one.
#[derive(Debug, Clone, Copy)]
pub struct SeededNoise {
    seed: u64,
}

impl SeededNoise {
    /// Noise of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl NoiseSource for SeededNoise {
    fn draw(&mut self, purpose: NoisePurpose, shape: [usize; 5]) -> Vec<f32> {
        let per_sample = shape[1..].iter().product();
        let mut values = Vec::with_capacity(shape[0] * per_sample);
        for sample in 0..shape[0] as u64 {
            let mut rng = ChaCha12Rng::seed_from_u64(self.seed.wrapping_add(sample));
            rng.set_stream(purpose.stream());
            let normals = Distribution::<f32>::sample_iter(StandardNormal, &mut rng);
            values.extend(normals.take(per_sample));
        }
        values
    }
}

/// Noise as an fp32 tensor on `device`.
pub(crate) fn noise_tensor<B: Backend>(
    source: &mut dyn NoiseSource,
    purpose: NoisePurpose,
    shape: [usize; 5],
    device: &B::Device,
) -> Tensor<B, 5> {
    upload(TensorData::new(source.draw(purpose, shape), shape), device)
}
