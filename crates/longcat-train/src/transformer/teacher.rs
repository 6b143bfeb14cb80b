//! Guidance distillation: what the base model, guided and in small steps, does between two
//! noise levels of a coarse schedule is what the adapter learns to do in one step without guidance.

use burn::module::AutodiffModule;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::{LongCatTransformer, TextCondition};
use longcat_kernels::KernelBackend;
use longcat_lora::LoraRegistry;
use longcat_video::{Checkpoint, ScheduleMode, cfg_zero};

use super::transform::{BatchSamples, BatchTransform};
use crate::config::{Objective, TrainConfig};
use crate::{Batch, FlowMatching, TrainBackend, TrainError};

/// The base model as the teacher of its adapter.
#[derive(Clone)]
pub(super) struct Teacher {
    /// Guidance scale, above 1.
    guidance: Option<f64>,
    /// Steps for each of the student's.
    steps: usize,
    /// Noise levels of the student's steps, and 0 after the last.
    sigmas: Vec<f32>,
}

impl Teacher {
    /// The teacher of a configuration, if there is one.
    pub(super) fn new(config: &TrainConfig) -> Result<Option<Self>, TrainError> {
        let Objective::Distill {
            guidance,
            steps,
            teacher_steps,
            ..
        } = config.objective
        else {
            return Ok(None);
        };
        let scheduler = Checkpoint::open(config.checkpoint()?)?.scheduler()?;
        let schedule = scheduler.schedule(steps, ScheduleMode::Distill)?;
        Ok(Some(Self {
            guidance,
            steps: teacher_steps,
            sigmas: schedule.sigmas,
        }))
    }

    /// Noise levels at which the student takes a step.
    pub(super) fn levels(&self) -> &[f32] {
        &self.sigmas[..self.sigmas.len() - 1]
    }

    /// The noise level after a step from `sigma`, one of [`Self::levels`].
    fn next(&self, sigma: f32) -> f32 {
        let below = self.sigmas.iter().find(|s| **s < sigma);
        below.copied().unwrap_or(0.0)
    }

    /// The batch with a target such that one step of the student's schedule ends where the teacher
    /// (`model` without its adapters) ends after several guided ones.
    fn teach<B: KernelBackend>(
        &self,
        mut model: LongCatTransformer<B>,
        batch: Batch<B>,
        negative: &TextCondition<B>,
    ) -> Result<Batch<B>, TrainError> {
        model.use_adapters(&[])?;
        let objective = FlowMatching::new(&batch)?;
        let [samples, _, frames, _, _] = objective.x_t.dims();
        let device = objective.x_t.device();
        let starts = crate::read_values(batch.sigma.clone(), "noise levels")?;
        let strides: Vec<f32> = starts
            .iter()
            .map(|sigma| (self.next(*sigma) - sigma) / self.steps as f32)
            .collect();
        // Condition frames have time 0 and stay where they are.
        let moving: Vec<f32> = (0..frames)
            .map(|frame| f32::from(frame >= batch.num_cond))
            .collect();
        let moving = Tensor::<B, 1>::from_data(TensorData::new(moving, [frames]), &device);
        let stride = TensorData::new(strides, [samples, 1, 1, 1, 1]);
        let stride = Tensor::<B, 5>::from_data(stride, (&device, DType::F32))
            * moving.reshape([1, 1, frames, 1, 1]);
        let per_frame = stride.clone().reshape([samples, frames]);

        let mut x = objective.x_t.clone();
        let mut sum: Option<Tensor<B, 5>> = None;
        for step in 0..self.steps {
            let timesteps =
                objective.timesteps.clone() + per_frame.clone() * (1000.0 * step as f64);
            let predict = |text: &TextCondition<B>| {
                model.forward(x.clone(), timesteps.clone(), text, batch.num_cond)
            };
            let predicted = match self.guidance {
                Some(scale) => cfg_zero(predict(&batch.text)?, predict(negative)?, scale),
                None => predict(&batch.text)?,
            };
            // The model predicts x0 − noise; Euler steps go along noise − x0.
            x = x - predicted.clone() * stride.clone();
            sum = Some(match sum {
                Some(sum) => sum + predicted,
                None => predicted,
            });
        }
        let mean = match sum {
            Some(sum) => sum / self.steps as f64,
            None => objective.target,
        };
        batch.with_prediction(mean)
    }
}

impl<B: TrainBackend> BatchTransform<B> for Teacher {
    fn apply(
        &self,
        model: &LongCatTransformer<B>,
        samples: &BatchSamples<'_, B>,
        batch: Batch<B::InnerBackend>,
    ) -> Result<Batch<B::InnerBackend>, TrainError> {
        let negative = (samples.encode)(&vec![String::new(); samples.captions.len()])?;
        self.teach(model.valid(), batch, &negative)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Distribution;
    use burn_flex::{Flex, FlexDevice};

    use super::*;
    use crate::transformer::tiny_transformer;

    #[test]
    fn the_target_is_where_guided_euler_steps_end() {
        let device = FlexDevice;
        let model = tiny_transformer();
        let teacher = Teacher {
            guidance: Some(3.0),
            steps: 2,
            sigmas: vec![1.0, 0.8, 0.5, 0.0],
        };
        let random = |shape: [usize; 5]| {
            Tensor::<Flex, 5>::random(shape, Distribution::Normal(0.0, 1.0), &device)
        };
        let text = |samples| TextCondition {
            embeds: Tensor::random([samples, 6, 48], Distribution::Normal(0.0, 1.0), &device),
            mask: None,
        };
        let starts = [0.8f32, 0.5];
        for num_cond in [0, 1] {
            let batch = Batch {
                x0: random([2, 16, 3, 4, 4]),
                noise: random([2, 16, 3, 4, 4]),
                sigma: Tensor::from_data(starts, &device),
                text: text(2),
                num_cond,
            };
            let negative = text(2);
            let distilled = teacher
                .teach(model.clone(), batch.clone(), &negative)
                .unwrap();
            let target = FlowMatching::new(&distilled).unwrap().target;
            // Sample by sample, with the sampler's own formula.
            for (i, [start, middle, end]) in
                [[0.8f32, 0.65, 0.5], [0.5, 0.25, 0.0]].iter().enumerate()
            {
                let sample = |text: &TextCondition<Flex>| TextCondition {
                    embeds: text.embeds.clone().narrow(0, i, 1),
                    mask: None,
                };
                let noisy = FlowMatching::new(&batch).unwrap().x_t.narrow(0, i, 1);
                let rest = 3 - num_cond;
                let mut x = noisy.clone();
                for [from, to] in [[start, middle], [middle, end]] {
                    let frame = |f| if f < num_cond { 0.0 } else { 1000.0 * from };
                    let times =
                        Tensor::<Flex, 1>::from_data([frame(0), frame(1), frame(2)], &device);
                    let predict = |text| {
                        let times = times.clone().unsqueeze();
                        model.forward(x.clone(), times, &text, num_cond).unwrap()
                    };
                    let guided = cfg_zero(
                        predict(sample(&batch.text)),
                        predict(sample(&negative)),
                        3.0,
                    );
                    let moved = x.clone() - guided * (to - from);
                    x = match num_cond {
                        0 => moved,
                        n => Tensor::cat(vec![x.narrow(2, 0, n), moved.narrow(2, n, rest)], 2),
                    };
                }
                let expected = (noisy - x).narrow(2, num_cond, rest) / (end - start);
                let found = target.clone().narrow(0, i, 1).narrow(2, num_cond, rest);
                let worst = (found - expected.clone()).abs().max().into_scalar();
                let scale = expected.abs().max().into_scalar();
                assert!(
                    worst < 1e-4 * scale.max(1.0),
                    "sample {i}: {worst} of {scale}"
                );
            }
        }
    }
}
