//! Batches on the host: what is drawn for every sample, by all processors.

use burn::tensor::TensorData;
use longcat_dit::TextCondition;
use longcat_kernels::KernelBackend;
use longcat_weights::upload;
use rayon::prelude::*;

use super::own::OwnCondition;
use super::teacher::Teacher;
use crate::cache::{Entry, Latents};
use crate::config::{ObjectiveConfig, PosteriorChoice, TimestepSampling, TrainConfig};
use crate::data::Condition;
use crate::sampling::{Draw, Purpose, normals, own_chance, own_noise, stream};
use crate::{Batch, TrainError};

/// How samples are drawn.
pub(super) struct Draws {
    seed: u64,
    batch: usize,
    objective: ObjectiveConfig,
    posterior: PosteriorChoice,
    /// Noise levels to choose from; empty where any level may come.
    levels: Vec<f32>,
}

/// A batch on the host, without its text.
pub(super) struct Drawn {
    /// Captions after dropout.
    pub captions: Vec<String>,
    x0: Vec<f32>,
    noise: Vec<f32>,
    sigma: Vec<f32>,
    shape: [usize; 4],
    num_cond: usize,
    /// Noise, and the share of it per sample, for a condition of the model's own making.
    own: Option<(Vec<f32>, Vec<f32>)>,
}

/// One sample.
struct Sample {
    caption: String,
    x0: Vec<f32>,
    noise: Vec<f32>,
    sigma: f32,
    condition: f64,
}

impl Draws {
    pub(super) fn new(config: &TrainConfig, teacher: Option<&Teacher>) -> Self {
        let mut objective = config.objective.clone();
        let levels = teacher.map_or_else(Vec::new, |t| t.levels().to_vec());
        if !levels.is_empty() {
            objective.timesteps = TimestepSampling::Uniform;
        }
        Self {
            seed: config.seed,
            batch: config.train.batch,
            objective,
            posterior: config.cache.posterior,
            levels,
        }
    }

    /// Batch number `index` of the run.
    pub(super) fn batch(
        &self,
        entries: &[Entry],
        members: &[usize],
        index: u64,
    ) -> Result<Drawn, TrainError> {
        let first = index * self.batch as u64;
        let samples: Result<Vec<Sample>, TrainError> = members
            .par_iter()
            .enumerate()
            .map(|(i, member)| self.sample(&entries[*member], first + i as u64))
            .collect();
        let samples = samples?;
        let Entry {
            shape, condition, ..
        } = entries[members[0]];
        let condition = condition.or_else(|| self.condition(samples[0].condition));
        let num_cond = self.frames_of(condition, shape[1]);
        let continues = condition == Some(Condition::Continuation) && num_cond > 0;
        let mut drawn = Drawn::new(samples, shape, num_cond);
        if continues && own_chance(self.seed, first, self.objective.own_continuation) {
            drawn.own = Some(self.own(first, members.len(), shape.iter().product()));
        }
        Ok(drawn)
    }

    /// Noise, and the share of it per sample, for conditions of the model's own making.
    fn own(&self, first: u64, count: usize, elements: usize) -> (Vec<f32>, Vec<f32>) {
        let (noise, sigma): (Vec<_>, Vec<_>) = (first..first + count as u64)
            .into_par_iter()
            .map(|number| own_noise(self.seed, number, elements))
            .unzip();
        (noise.concat(), sigma)
    }

    /// One clip at a given noise level, without conditions and with its caption.
    pub(super) fn validation(
        &self,
        entry: &Entry,
        sigma: f64,
        number: u64,
    ) -> Result<Drawn, TrainError> {
        let mut rng = stream(self.seed, Purpose::Validation, number);
        let mut sample = Sample {
            caption: entry.caption.clone(),
            noise: normals(&mut rng, entry.shape.iter().product()),
            x0: Vec::new(),
            sigma: sigma as f32,
            condition: 1.0,
        };
        let latents = entry.read()?;
        sample.x0 = latents.mean.iter::<f32>().collect();
        self.refine(&mut sample, &latents);
        Ok(Drawn::new(vec![sample], entry.shape, 0))
    }

    fn sample(&self, entry: &Entry, number: u64) -> Result<Sample, TrainError> {
        let elements = entry.shape.iter().product();
        let draw = Draw::new(self.seed, number, &self.objective, elements);
        let latents = entry.read()?;
        let mean = latents.mean.iter::<f32>();
        let x0 = match self.posterior {
            PosteriorChoice::Mode => mean.collect(),
            PosteriorChoice::Sample => mean
                .zip(latents.deviation.iter::<f32>())
                .zip(&draw.posterior)
                .map(|((mean, deviation), noise)| mean + deviation * noise)
                .collect(),
        };
        let level = (f64::from(draw.sigma) * self.levels.len() as f64) as usize;
        let mut sample = Sample {
            caption: match draw.drop_caption {
                true => String::new(),
                false => entry.caption.clone(),
            },
            x0,
            noise: draw.noise,
            sigma: match self.levels.last() {
                Some(last) => self.levels.get(level).copied().unwrap_or(*last),
                None => draw.sigma,
            },
            condition: draw.condition,
        };
        self.refine(&mut sample, &latents);
        Ok(sample)
    }

    /// Refining goes along the line from e = (1 − θ)·upsampled + θ·noise at time θ to x0 at time 0.
    /// That is flow matching between x0 and the point at which the line would be at time 1, for
    /// times up to θ.
    fn refine(&self, sample: &mut Sample, latents: &Latents) {
        let end = self.objective.refine as f32;
        let Some(source) = latents.source.as_ref().filter(|_| end > 0.0) else {
            return;
        };
        let share = (1.0 - end) / end;
        let pairs = source.iter::<f32>().zip(&sample.x0);
        for (noise, (source, x0)) in sample.noise.iter_mut().zip(pairs) {
            *noise += share * (source - x0);
        }
        sample.sigma *= end;
    }

    /// What is given of a batch, for a number from 0 to 1.
    fn condition(&self, draw: f64) -> Option<Condition> {
        let objective = &self.objective;
        if draw < objective.image_condition {
            Some(Condition::Image)
        } else if draw < objective.image_condition + objective.continuation {
            Some(Condition::Continuation)
        } else {
            None
        }
    }

    /// Latent frames of a condition, in a batch of `frames` latent frames.
    fn frames_of(&self, condition: Option<Condition>, frames: usize) -> usize {
        let wanted = match condition {
            None => 0,
            Some(Condition::Image) => 1,
            Some(Condition::Continuation) => self.objective.continuation_latents,
        };
        // A clip too short for the condition is trained without one.
        if wanted < frames { wanted } else { 0 }
    }
}

impl Drawn {
    fn new(samples: Vec<Sample>, shape: [usize; 4], num_cond: usize) -> Self {
        let mut drawn = Self {
            captions: Vec::with_capacity(samples.len()),
            x0: Vec::new(),
            noise: Vec::new(),
            sigma: Vec::new(),
            shape,
            num_cond,
            own: None,
        };
        for sample in samples {
            drawn.captions.push(sample.caption);
            drawn.x0.extend(sample.x0);
            drawn.noise.extend(sample.noise);
            drawn.sigma.push(sample.sigma);
        }
        drawn
    }

    /// Whether the model makes the condition.
    pub(super) fn has_own_condition(&self) -> bool {
        self.own.is_some()
    }

    /// The batch on a device, and what a condition of the model's own making starts from.
    pub(super) fn assemble<B: KernelBackend>(
        self,
        text: TextCondition<B>,
        device: &B::Device,
    ) -> (Batch<B>, Option<OwnCondition<B>>) {
        let count = self.sigma.len();
        let [c, t, h, w] = self.shape;
        let tensor =
            |values: Vec<f32>| upload(TensorData::new(values, [count, c, t, h, w]), device);
        let levels = |values: Vec<f32>| upload(TensorData::new(values, [count]), device);
        let own = self.own.map(|(noise, sigma)| OwnCondition {
            noise: tensor(noise),
            sigma: levels(sigma),
        });
        let batch = Batch {
            x0: tensor(self.x0),
            noise: tensor(self.noise),
            sigma: levels(self.sigma),
            text,
            num_cond: self.num_cond,
        };
        (batch, own)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use burn::tensor::Tensor;
    use burn_flex::{Flex, FlexDevice};
    use longcat_weights::{NamedTensor, write_safetensors};

    use super::*;
    use crate::Objective;

    #[test]
    fn refining_goes_from_the_noised_upsampled_clip_to_the_clip() {
        let (clean, upsampled, noise, end) = (0.7f32, 0.2f32, -1.3f32, 0.5f64);
        let mut config = TrainConfig::default();
        config.objective.refine = end;
        let draws = Draws::new(&config, None);
        let shape = [1, 2, 1, 1];
        let values = |value: f32| TensorData::new(vec![value; 2], [1, 1, 2, 1, 1]);
        for drawn_sigma in [0.25f32, 1.0] {
            let mut sample = Sample {
                caption: String::new(),
                x0: vec![clean; 2],
                noise: vec![noise; 2],
                sigma: drawn_sigma,
                condition: 1.0,
            };
            let latents = Latents {
                mean: values(clean),
                deviation: values(0.0),
                source: Some(values(upsampled)),
            };
            draws.refine(&mut sample, &latents);
            let text = TextCondition {
                embeds: Tensor::<Flex, 3>::zeros([1, 1, 1], &FlexDevice),
                mask: None,
            };
            let drawn = Drawn::new(vec![sample], shape, 0);
            let (batch, _) = drawn.assemble(text, &FlexDevice);
            let objective = Objective::new(&batch).unwrap();
            // What the pipeline starts from at the threshold, and how it gets to the clip.
            let start = (1.0 - end as f32) * upsampled + end as f32 * noise;
            let expected = [
                clean + drawn_sigma * (start - clean),
                1000.0 * end as f32 * drawn_sigma,
                (clean - start) / end as f32,
            ];
            let found = [
                objective.x_t.max().into_scalar(),
                objective.timesteps.max().into_scalar(),
                objective.target.max().into_scalar(),
            ];
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_clip_for_continuation_never_comes_without_its_first_frames() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("latents.safetensors");
        let tensors = ["mean", "deviation"].map(|name| NamedTensor {
            name: name.into(),
            data: TensorData::zeros::<f32, _>([1, 1, 5, 1, 1]),
        });
        write_safetensors(&file, &tensors, &BTreeMap::new()).unwrap();
        let mut config = TrainConfig::default();
        config.objective.continuation_latents = 3;
        config.objective.own_continuation = 1.0;
        let draws = Draws::new(&config, None);
        for (condition, expected) in [
            (None, 0),
            (Some(Condition::Image), 1),
            (Some(Condition::Continuation), 3),
        ] {
            let entry = Entry {
                number: 0,
                clip: file.clone(),
                latents: file.clone(),
                shape: [1, 5, 1, 1],
                caption: String::new(),
                repeats: 1,
                condition,
            };
            let drawn = draws.batch(&[entry], &[0, 0], 7).unwrap();
            assert_eq!(drawn.num_cond, expected);
            let own = condition == Some(Condition::Continuation);
            assert_eq!(drawn.own.map(|(noise, _)| noise.len()), own.then_some(10));
        }
    }
}
