//! Condition frames that the model makes: in use a video goes on from frames that the model made, and
//! faults of theirs that it never saw in training are added to from segment to segment.

use burn::module::AutodiffModule;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::LongCatTransformer;
use longcat_kernels::KernelBackend;
use longcat_train::{
    Batch, BatchSamples, BatchTransform, Condition, FlowMatching, Purpose, TrainBackend,
    TrainError, normals, open_unit, stream,
};
use longcat_weights::upload;
use rand::Rng;
use rayon::prelude::*;

use super::guidance::Guidance;
use super::per_sample;

/// Euler steps from the noised clip to the condition. In fewer its faults are blurred, and a model that
/// goes on from blurred frames alone takes sharp ones for the truth.
const STEPS: usize = 4;
/// More noise than this leaves a model with two steps nothing to tell a shape from.
const MOST_NOISE: f64 = 0.8;
/// Whether the model makes the condition of a batch, by the number of its first sample.
const CHANCE: Purpose = Purpose::Other(0);
/// The noise that it makes them from, by the number of a sample.
const NOISE: Purpose = Purpose::Other(1);

/// A share of the batches that continue a video get condition frames that the model makes.
pub(super) struct ModelConditions {
    /// Seed of the run.
    pub seed: u64,
    /// The share.
    pub share: f64,
    /// Guidance scale with which it makes them; 1 for none.
    pub guidance: f64,
}

impl ModelConditions {
    /// What the model starts from for sample `number`: noise of `elements` latent values, and the
    /// share of it.
    fn start(&self, number: u64, elements: usize) -> (Vec<f32>, f32) {
        let mut rng = stream(self.seed, NOISE, number);
        let sigma = (MOST_NOISE * open_unit(&mut rng)) as f32;
        (normals(&mut rng, elements), sigma)
    }
}

impl<B: TrainBackend> BatchTransform<B> for ModelConditions {
    fn apply(
        &self,
        model: &LongCatTransformer<B>,
        samples: &BatchSamples<'_, B>,
        batch: Batch<B::InnerBackend>,
    ) -> Result<Batch<B::InnerBackend>, TrainError> {
        let first = samples.first;
        if samples.condition != Some(Condition::Continuation)
            || stream(self.seed, CHANCE, first).random::<f64>() >= self.share
        {
            return Ok(batch);
        }
        let shape = batch.x0.dims();
        let elements = shape[1..].iter().product();
        let (noise, sigma): (Vec<_>, Vec<_>) = (first..first + shape[0] as u64)
            .into_par_iter()
            .map(|number| self.start(number, elements))
            .unzip();
        let device = batch.x0.device();
        let start = Start {
            noise: upload(TensorData::new(noise.concat(), shape), &device),
            sigma: upload(TensorData::new(sigma, [shape[0]]), &device),
        };
        let guidance = match self.guidance > 1.0 {
            true => Some(Guidance::of(self.guidance, samples, &batch)?),
            false => None,
        };
        start.condition(&model.valid(), guidance.as_ref(), batch)
    }
}

/// Where the model starts from when it makes the condition of a batch.
struct Start<B: KernelBackend> {
    /// Standard normal noise, `[B, C, T, H, W]`.
    noise: Tensor<B, 5>,
    /// Share of noise per sample, `[B]`.
    sigma: Tensor<B, 1>,
}

impl<B: KernelBackend> Start<B> {
    /// The batch with its condition frames as `model` makes them from the noised clip and its
    /// caption, in a few Euler steps, with guidance if there is any.
    fn condition(
        self,
        model: &LongCatTransformer<B>,
        guidance: Option<&Guidance<B>>,
        batch: Batch<B>,
    ) -> Result<Batch<B>, TrainError> {
        let whole = Batch {
            noise: self.noise,
            sigma: self.sigma,
            num_cond: 0,
            ..batch.clone()
        };
        let FlowMatching {
            mut x_t,
            mut timesteps,
            ..
        } = FlowMatching::new(&whole)?;
        let stride = per_sample(whole.sigma) / STEPS as f64;
        let whole_way = timesteps.clone();
        for step in 1..=STEPS {
            // The model predicts x0 − noise, the way to less noise.
            let (x, t, text) = (x_t.clone(), timesteps.clone(), &batch.text);
            let predicted = match guidance {
                Some(guidance) => guidance.predict(model, x, t, text, 0)?,
                None => model.forward(x, t, text, 0)?,
            };
            x_t = x_t + predicted * stride.clone();
            timesteps = whole_way.clone() * (1.0 - step as f64 / STEPS as f64);
        }
        let clip = batch.x0.clone().cast(DType::F32);
        let (given, frames) = (batch.num_cond, clip.dims()[2]);
        let rest = clip.narrow(2, given, frames - given);
        let x0 = Tensor::cat(vec![x_t.narrow(2, 0, given), rest], 2);
        Ok(Batch { x0, ..batch })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Distribution;
    use burn_flex::{Flex, FlexDevice};
    use longcat_dit::TextCondition;

    use super::*;
    use crate::train::tiny_transformer;

    #[test]
    fn the_condition_is_where_guided_euler_steps_end_and_the_rest_stays() {
        let device = FlexDevice;
        let model = tiny_transformer();
        let spread = Distribution::Normal(0.0, 1.0);
        let latents = || Tensor::<Flex, 5>::random([1, 16, 3, 4, 4], spread, &device);
        let text = || TextCondition {
            embeds: Tensor::<Flex, 3>::random([1, 4, 48], spread, &device),
            mask: None,
        };
        let batch = Batch {
            x0: latents(),
            noise: latents(),
            sigma: Tensor::from_data([0.9], &device),
            text: text(),
            num_cond: 1,
        };
        let empty = text();
        for scale in [None, Some(3.0)] {
            let guidance = scale.map(|scale| Guidance {
                empty: empty.clone(),
                scale: Tensor::from_data([scale], &device),
            });
            let start = Start {
                noise: latents(),
                sigma: Tensor::from_data([0.5], &device),
            };
            // By hand: from σ = 0.5 to 0 in four steps.
            let mut x = (batch.x0.clone() + start.noise.clone()) * 0.5;
            for t in [500.0, 375.0, 250.0, 125.0] {
                let velocity = |text| {
                    let t = Tensor::full([1, 3], t, &device);
                    model.forward(x.clone(), t, text, 0).unwrap().neg()
                };
                let captioned = velocity(&batch.text);
                let velocity = match scale {
                    None => captioned,
                    Some(scale) => captioned * scale - velocity(&empty) * (scale - 1.0),
                };
                x = x - velocity * 0.125;
            }
            let found = start.condition(&model, guidance.as_ref(), batch.clone());
            let found = found.unwrap();
            let worst = |a: Tensor<Flex, 5>, b: Tensor<Flex, 5>| -> f32 {
                (a - b).abs().max().into_scalar()
            };
            let made = found.x0.clone().narrow(2, 0, 1);
            let away = worst(made, x.narrow(2, 0, 1));
            assert!(away < 1e-4, "{away}");
            let rest = |x: Tensor<Flex, 5>| x.narrow(2, 1, 2);
            assert_eq!(worst(rest(found.x0), rest(batch.x0.clone())), 0.0);
            assert_eq!(worst(found.noise, batch.noise.clone()), 0.0);
        }
    }
}
