//! Conditions of the model's own making: in use a video goes on from frames that the model made, and
//! faults of theirs that it never saw in training are added to from segment to segment.

use burn::tensor::{DType, Tensor};
use longcat_dit::LongCatTransformer;
use longcat_kernels::KernelBackend;

use super::guided::Guidance;
use crate::step::{per_sample, with_first_frames};
use crate::{Batch, Objective, TrainError};

/// Euler steps from the noised clip to the condition. In fewer its faults are blurred, and a model that
/// goes on from blurred frames alone takes sharp ones for the truth.
const STEPS: usize = 4;

/// Where the model starts from when it makes the condition of a batch.
pub(super) struct OwnCondition<B: KernelBackend> {
    /// Standard normal noise, `[B, C, T, H, W]`.
    pub noise: Tensor<B, 5>,
    /// Share of noise per sample, `[B]`.
    pub sigma: Tensor<B, 1>,
}

impl<B: KernelBackend> OwnCondition<B> {
    /// The batch with its condition frames as `model` makes them from the noised clip and its
    /// caption, in a few Euler steps, with guidance if there is any.
    pub(super) fn apply(
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
        let Objective {
            mut x_t,
            mut timesteps,
            ..
        } = Objective::new(&whole)?;
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
        let x0 = with_first_frames(x_t, batch.x0.clone().cast(DType::F32), batch.num_cond);
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
    use crate::transformer::tiny_transformer;

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
            let own = OwnCondition {
                noise: latents(),
                sigma: Tensor::from_data([0.5], &device),
            };
            // By hand: from σ = 0.5 to 0 in four steps.
            let mut x = (batch.x0.clone() + own.noise.clone()) * 0.5;
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
            let found = own.apply(&model, guidance.as_ref(), batch.clone());
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
