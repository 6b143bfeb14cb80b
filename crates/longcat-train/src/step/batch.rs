//! A batch, and flow matching on it.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_dit::TextCondition;

use crate::TrainError;

/// Clean latents, the noise to mix in, and what they are conditioned on.
#[derive(Debug, Clone)]
pub struct Batch<B: Backend> {
    /// Clean latents, normalised, `[B, C, T, H, W]`.
    pub x0: Tensor<B, 5>,
    /// Standard normal noise of the same shape.
    pub noise: Tensor<B, 5>,
    /// Share of noise per sample, `[B]`, 0 to 1.
    pub sigma: Tensor<B, 1>,
    /// The captions.
    pub text: TextCondition<B>,
    /// Leading latent frames that stay clean, with timestep 0, and do not count in the loss.
    pub num_cond: usize,
}

impl<B: Backend> Batch<B> {
    /// The batch with the same input for the model, and `prediction` (native, as x0 − noise is) as
    /// the target: clean latents and noise are moved along the line through the input.
    ///
    /// # Errors
    /// As [`FlowMatching::new`].
    pub fn with_prediction(self, prediction: Tensor<B, 5>) -> Result<Self, TrainError> {
        let input = FlowMatching::new(&self)?.x_t;
        let share = per_sample(self.sigma.clone());
        let noise = input.clone() - prediction.clone() * (share.clone().neg() + 1.0);
        let moved = input + prediction * share;
        let x0 = with_first_frames(self.x0, moved, self.num_cond);
        Ok(Self { x0, noise, ..self })
    }
}

/// Flow matching on one batch: x_t = (1 − σ)·x0 + σ·noise at timestep 1000·σ, and the mean squared
/// error against x0 − noise, which is what the model predicts natively (the official pipelines
/// negate it before the scheduler).
#[derive(Debug, Clone)]
pub struct FlowMatching<B: Backend> {
    /// The model's input `[B, C, T, H, W]`, fp32.
    pub x_t: Tensor<B, 5>,
    /// Timesteps `[B, T]`.
    pub timesteps: Tensor<B, 2>,
    /// What the model is to predict, x0 − noise.
    pub target: Tensor<B, 5>,
    /// The captions.
    pub text: TextCondition<B>,
    /// Leading frames without loss.
    pub num_cond: usize,
}

impl<B: Backend> FlowMatching<B> {
    /// Mixes the batch.
    ///
    /// # Errors
    /// [`TrainError::Shape`] where tensors do not fit each other.
    pub fn new(batch: &Batch<B>) -> Result<Self, TrainError> {
        let shape = batch.x0.dims();
        let [samples, _, frames, _, _] = shape;
        let mismatch = |input, found: &[usize], expected: String| {
            Err(TrainError::Shape {
                input,
                found: found.to_vec(),
                expected,
            })
        };
        if batch.noise.dims() != shape {
            let expected = format!("{shape:?} like the latents is needed");
            return mismatch("noise", &batch.noise.dims(), expected);
        }
        if batch.sigma.dims() != [samples] {
            let expected = format!("[{samples}] like the latents is needed");
            return mismatch("sigma", &batch.sigma.dims(), expected);
        }
        if batch.num_cond >= frames {
            let expected = format!(
                "{} condition frames leave no frame for the loss",
                batch.num_cond
            );
            return mismatch("latents", &shape, expected);
        }
        let x0 = batch.x0.clone().cast(DType::F32);
        let noise = batch.noise.clone().cast(DType::F32);
        let sigma = batch.sigma.clone().cast(DType::F32);
        let share = per_sample(sigma.clone());
        let mixed = x0.clone() * (share.clone().neg() + 1.0) + noise.clone() * share;
        let timesteps = (sigma * 1000.0)
            .unsqueeze_dim::<2>(1)
            .repeat_dim(1, frames - batch.num_cond);
        let timesteps = match batch.num_cond {
            0 => timesteps,
            n => {
                let zeros = Tensor::zeros([samples, n], (&x0.device(), DType::F32));
                Tensor::cat(vec![zeros, timesteps], 1)
            }
        };
        Ok(Self {
            x_t: with_first_frames(x0.clone(), mixed, batch.num_cond),
            timesteps,
            target: x0 - noise,
            text: batch.text.clone(),
            num_cond: batch.num_cond,
        })
    }

    /// Mean squared error of a prediction over the noise frames, `[1]`.
    pub fn loss(&self, out: Tensor<B, 5>) -> Tensor<B, 1> {
        mean_squared_error(out, self.target.clone(), self.num_cond)
    }
}

/// Numbers per sample, `[B]`, to multiply latents `[B, C, T, H, W]` by, in fp32.
fn per_sample<B: Backend>(values: Tensor<B, 1>) -> Tensor<B, 5> {
    let [samples] = values.dims();
    values.cast(DType::F32).reshape([samples, 1, 1, 1, 1])
}

/// `x`, with its first `count` frames those of `first`.
fn with_first_frames<B: Backend>(
    first: Tensor<B, 5>,
    x: Tensor<B, 5>,
    count: usize,
) -> Tensor<B, 5> {
    let rest = x.dims()[2] - count;
    match count {
        0 => x,
        _ => Tensor::cat(vec![first.narrow(2, 0, count), x.narrow(2, count, rest)], 2),
    }
}

/// Mean squared error over the frames after the first `num_cond`.
pub(crate) fn mean_squared_error<B: Backend>(
    out: Tensor<B, 5>,
    target: Tensor<B, 5>,
    num_cond: usize,
) -> Tensor<B, 1> {
    let noise = target.dims()[2] - num_cond;
    let cut = |x: Tensor<B, 5>| match num_cond {
        0 => x,
        n => x.narrow(2, n, noise),
    };
    (cut(out) - cut(target)).square().mean()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Distribution;
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    #[test]
    fn another_target_leaves_the_input_as_it_is() {
        let random = || {
            let spread = Distribution::Normal(0.0, 1.0);
            Tensor::<Flex, 5>::random([2, 3, 4, 2, 2], spread, &FlexDevice)
        };
        for num_cond in [0, 2] {
            let batch = Batch {
                x0: random(),
                noise: random(),
                sigma: Tensor::from_data([0.3, 0.9], &FlexDevice),
                text: TextCondition {
                    embeds: Tensor::zeros([2, 1, 1], &FlexDevice),
                    mask: None,
                },
                num_cond,
            };
            let prediction = random();
            let before = FlowMatching::new(&batch).unwrap();
            let after =
                FlowMatching::new(&batch.with_prediction(prediction.clone()).unwrap()).unwrap();
            let near = |a: Tensor<Flex, 5>, b: Tensor<Flex, 5>| {
                let worst: f32 = (a - b).abs().max().into_scalar();
                assert!(worst < 1e-5, "{worst}");
            };
            near(after.x_t.clone(), before.x_t);
            let rest = |x: Tensor<Flex, 5>| x.narrow(2, num_cond, 4 - num_cond);
            near(rest(after.target.clone()), rest(prediction.clone()));
            let loss: f32 = after.loss(prediction).into_scalar();
            assert!(loss < 1e-9, "{loss}");
        }
    }
}
