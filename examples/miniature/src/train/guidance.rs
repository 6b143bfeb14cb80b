//! Guidance as part of what is trained: a small model is used with guidance, and guidance adds to what it
//! has learnt of a caption. Trained this way, it is the guided prediction that fits the clips.

use burn::module::AutodiffModule;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::{LongCatTransformer, TextCondition};
use longcat_kernels::KernelBackend;
use longcat_train::{Batch, BatchSamples, BatchTransform, FlowMatching, TrainBackend, TrainError};

use super::per_sample;

/// Training with guidance of a scale above 1, which captions that are left out do not have.
pub(super) struct GuidedTarget(pub f64);

impl<B: TrainBackend> BatchTransform<B> for GuidedTarget {
    fn apply(
        &self,
        model: &LongCatTransformer<B>,
        samples: &BatchSamples<'_, B>,
        batch: Batch<B::InnerBackend>,
    ) -> Result<Batch<B::InnerBackend>, TrainError> {
        let guidance = Guidance::of(self.0, samples, &batch)?;
        guidance.with_target(&model.valid(), batch)
    }

    /// The error of the guided prediction.
    fn validate(
        &self,
        model: &LongCatTransformer<B>,
        samples: &BatchSamples<'_, B>,
        batch: Batch<B::InnerBackend>,
    ) -> Result<(Batch<B::InnerBackend>, f32), TrainError> {
        let factor = match samples.captions {
            [caption] if !caption.is_empty() => (self.0 as f32).powi(2),
            _ => 1.0,
        };
        Ok((self.apply(model, samples, batch)?, factor))
    }
}

/// The guidance of a batch.
pub(super) struct Guidance<B: KernelBackend> {
    /// The empty caption, as often as there are samples.
    pub empty: TextCondition<B>,
    /// Guidance scale per sample, `[B]`: 1 where the caption was left out.
    pub scale: Tensor<B, 1>,
}

impl<B: KernelBackend> Guidance<B> {
    /// Guidance of this scale for the samples of a batch.
    pub(super) fn of<A: TrainBackend<InnerBackend = B>>(
        scale: f64,
        samples: &BatchSamples<'_, A>,
        batch: &Batch<B>,
    ) -> Result<Self, TrainError> {
        let captions = samples.captions;
        let scales = captions.iter().map(|caption| match caption.is_empty() {
            true => 1.0,
            false => scale as f32,
        });
        let scales = TensorData::new(scales.collect(), [captions.len()]);
        Ok(Self {
            empty: (samples.encode)(&vec![String::new(); captions.len()])?,
            scale: Tensor::from_data(scales, (&batch.x0.device(), DType::F32)),
        })
    }

    /// u + scale · (c − u), of the predictions for a caption and for the empty one.
    pub(super) fn predict(
        &self,
        model: &LongCatTransformer<B>,
        x_t: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        num_cond: usize,
    ) -> Result<Tensor<B, 5>, TrainError> {
        let captioned = model.forward(x_t.clone(), timesteps.clone(), text, num_cond)?;
        let plain = model.forward(x_t, timesteps, &self.empty, num_cond)?;
        Ok(plain.clone() + (captioned - plain) * per_sample(self.scale.clone()))
    }

    /// The batch with a target for the prediction c of a caption, so that u + scale · (c − u) is what
    /// the batch had. The prediction u for the empty caption is taken as it is.
    ///
    /// The mean squared error of the guided prediction is scale² times that of c.
    fn with_target(
        &self,
        model: &LongCatTransformer<B>,
        batch: Batch<B>,
    ) -> Result<Batch<B>, TrainError> {
        let plan = FlowMatching::new(&batch)?;
        let plain = model.forward(plan.x_t, plan.timesteps, &self.empty, batch.num_cond)?;
        let guided = plain.clone() + (plan.target - plain) / per_sample(self.scale.clone());
        batch.with_prediction(guided)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Distribution;
    use burn_flex::{Flex, FlexDevice};

    use super::*;
    use crate::train::tiny_transformer;

    #[test]
    fn a_prediction_on_target_fits_the_clip_once_it_is_guided() {
        let device = FlexDevice;
        let model = tiny_transformer();
        let spread = Distribution::Normal(0.0, 1.0);
        let latents = || Tensor::<Flex, 5>::random([2, 16, 3, 4, 4], spread, &device);
        let text = || TextCondition {
            embeds: Tensor::random([2, 4, 48], spread, &device),
            mask: None,
        };
        let scales = [2.5, 1.0];
        for num_cond in [0, 1] {
            let guidance = Guidance {
                empty: text(),
                scale: Tensor::from_data(scales, &device),
            };
            let batch = Batch {
                x0: latents(),
                noise: latents(),
                sigma: Tensor::from_data([0.4, 0.9], &device),
                text: text(),
                num_cond,
            };
            let before = FlowMatching::new(&batch).unwrap();
            let changed = guidance.with_target(&model, batch.clone()).unwrap();
            let after = FlowMatching::new(&changed).unwrap();
            let predict = |text: &TextCondition<Flex>| {
                let (x, t) = (before.x_t.clone(), before.timesteps.clone());
                model.forward(x, t, text, num_cond).unwrap()
            };
            let plain = predict(&guidance.empty);
            let captioned = predict(&batch.text);
            let (x, t) = (before.x_t.clone(), before.timesteps.clone());
            let guided = guidance.predict(&model, x, t, &batch.text, num_cond);
            let guided = guided.unwrap();
            for (i, scale) in scales.into_iter().enumerate() {
                let sample = |x: &Tensor<Flex, 5>| {
                    let rest = 3 - num_cond;
                    x.clone().narrow(0, i, 1).narrow(2, num_cond, rest)
                };
                let near = |a: Tensor<Flex, 5>, b: Tensor<Flex, 5>| {
                    let worst: f32 = (a - b).abs().max().into_scalar();
                    assert!(worst < 2e-4, "sample {i} of {num_cond}: {worst}");
                };
                let guide = |c: Tensor<Flex, 5>| {
                    let c = sample(&c);
                    sample(&plain) * (1.0 - scale) + c * scale
                };
                near(guide(after.target.clone()), sample(&before.target));
                near(guide(captioned.clone()), sample(&guided));
                near(sample(&after.x_t), sample(&before.x_t));
            }
        }
    }
}
