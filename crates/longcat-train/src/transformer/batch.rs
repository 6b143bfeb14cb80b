//! Batches on the host: what is drawn for every sample, by all processors.

use burn::tensor::TensorData;
use longcat_dit::TextCondition;
use longcat_kernels::KernelBackend;
use longcat_vae::LatentDraw;
use longcat_weights::upload;
use rayon::prelude::*;

use super::teacher::Teacher;
use crate::cache::{CachedLatents, Entry};
use crate::config::{ConditionShares, NoiseLevels, Objective, TrainConfig};
use crate::data::Condition;
use crate::sampling::{Choice, Draw, Purpose, normals, stream};
use crate::{Batch, TrainError};

/// How samples are drawn.
pub(super) struct Draws {
    seed: u64,
    batch: usize,
    caption_dropout: f64,
    noise: NoiseLevels,
    conditions: ConditionShares,
    /// Share of noise that refining begins with.
    threshold: Option<f32>,
    posterior: LatentDraw,
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
    /// What is given of the clips, in as many latent frames.
    pub condition: Option<Condition>,
    num_cond: usize,
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
        Self {
            seed: config.seed,
            batch: config.train.batch,
            caption_dropout: config.caption_dropout,
            noise: match &config.objective {
                Objective::Clips { noise, .. } | Objective::Refine { noise, .. } => *noise,
                // Of the teacher's levels one is as likely as another.
                Objective::Distill { .. } => NoiseLevels::Uniform,
            },
            conditions: config.objective.conditions(),
            threshold: config.objective.threshold().map(|t| t as f32),
            posterior: config.cache.posterior,
            levels: teacher.map_or_else(Vec::new, |t| t.levels().to_vec()),
        }
    }

    /// The number in the run of the first sample of batch number `index`.
    pub(super) fn first(&self, index: u64) -> u64 {
        index * self.batch as u64
    }

    /// Batch number `index` of the run.
    pub(super) fn batch(
        &self,
        entries: &[Entry],
        members: &[usize],
        index: u64,
    ) -> Result<Drawn, TrainError> {
        let first = self.first(index);
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
        let condition = condition.filter(|_| num_cond > 0);
        Ok(Drawn::new(samples, shape, condition, num_cond))
    }

    /// The first part of one clip at a given noise level, without conditions and with its first caption.
    pub(super) fn validation(
        &self,
        entry: &Entry,
        sigma: f64,
        number: u64,
    ) -> Result<Drawn, TrainError> {
        let mut rng = stream(self.seed, Purpose::Validation, number);
        let mut sample = Sample {
            caption: entry.captions[0].clone(),
            noise: normals(&mut rng, entry.shape.iter().product()),
            x0: Vec::new(),
            sigma: sigma as f32,
            condition: 1.0,
        };
        let latents = entry.read(0)?;
        sample.x0 = latents.mean.iter::<f32>().collect();
        self.refine(&mut sample, &latents);
        Ok(Drawn::new(vec![sample], entry.shape, None, 0))
    }

    fn sample(&self, entry: &Entry, number: u64) -> Result<Sample, TrainError> {
        let elements = entry.shape.iter().product();
        let draw = Draw::new(
            self.seed,
            number,
            self.caption_dropout,
            self.noise,
            elements,
        );
        let choice = Choice::new(self.seed, number);
        let latents = entry.read(choice.window(entry.latents.len()))?;
        let mean = latents.mean.iter::<f32>();
        let x0 = match self.posterior {
            LatentDraw::Mode => mean.collect(),
            LatentDraw::Sample => mean
                .zip(latents.deviation.iter::<f32>())
                .zip(&draw.posterior)
                .map(|((mean, deviation), noise)| mean + deviation * noise)
                .collect(),
        };
        let level = (f64::from(draw.sigma) * self.levels.len() as f64) as usize;
        let mut sample = Sample {
            caption: match draw.drop_caption {
                true => String::new(),
                false => entry.captions[choice.caption(entry.captions.len())].clone(),
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
    fn refine(&self, sample: &mut Sample, latents: &CachedLatents) {
        let (Some(end), Some(source)) = (self.threshold, latents.source.as_ref()) else {
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
        let conditions = self.conditions;
        if draw < conditions.image {
            Some(Condition::Image)
        } else if draw < conditions.image + conditions.continuation {
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
            Some(Condition::Continuation) => self.conditions.latents,
        };
        // A clip too short for the condition is trained without one.
        if wanted < frames { wanted } else { 0 }
    }
}

impl Drawn {
    fn new(
        samples: Vec<Sample>,
        shape: [usize; 4],
        condition: Option<Condition>,
        num_cond: usize,
    ) -> Self {
        let mut drawn = Self {
            captions: Vec::with_capacity(samples.len()),
            x0: Vec::new(),
            noise: Vec::new(),
            sigma: Vec::new(),
            shape,
            condition,
            num_cond,
        };
        for sample in samples {
            drawn.captions.push(sample.caption);
            drawn.x0.extend(sample.x0);
            drawn.noise.extend(sample.noise);
            drawn.sigma.push(sample.sigma);
        }
        drawn
    }

    /// The batch on a device.
    pub(super) fn assemble<B: KernelBackend>(
        self,
        text: TextCondition<B>,
        device: &B::Device,
    ) -> Batch<B> {
        let count = self.sigma.len();
        let [c, t, h, w] = self.shape;
        let tensor =
            |values: Vec<f32>| upload(TensorData::new(values, [count, c, t, h, w]), device);
        Batch {
            x0: tensor(self.x0),
            noise: tensor(self.noise),
            sigma: upload(TensorData::new(self.sigma, [count]), device),
            text,
            num_cond: self.num_cond,
        }
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
    use crate::FlowMatching;

    fn config(extra: &str) -> TrainConfig {
        let text = format!("output = 'run'\ndata.path = 'clips'\n{extra}");
        TrainConfig::parse(&text, "run.toml".as_ref()).unwrap()
    }

    #[test]
    fn refining_goes_from_the_noised_upsampled_clip_to_the_clip() {
        let (clean, upsampled, noise, end) = (0.7f32, 0.2f32, -1.3f32, 0.5f64);
        let draws = Draws::new(&config("[objective]\nrefine = 0.5"), None);
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
            let latents = CachedLatents {
                mean: values(clean),
                deviation: values(0.0),
                source: Some(values(upsampled)),
            };
            draws.refine(&mut sample, &latents);
            let text = TextCondition {
                embeds: Tensor::<Flex, 3>::zeros([1, 1, 1], &FlexDevice),
                mask: None,
            };
            let drawn = Drawn::new(vec![sample], shape, None, 0);
            let batch = drawn.assemble(text, &FlexDevice);
            let objective = FlowMatching::new(&batch).unwrap();
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
        let draws = Draws::new(&config("[objective]\ncontinuation_latents = 3"), None);
        for (condition, expected) in [
            (None, 0),
            (Some(Condition::Image), 1),
            (Some(Condition::Continuation), 3),
        ] {
            let entry = Entry {
                number: 0,
                clip: file.clone(),
                latents: vec![file.clone()],
                shape: [1, 5, 1, 1],
                bucket: String::new(),
                length: None,
                captions: vec![String::new()],
                repeats: 1,
                condition,
            };
            let drawn = draws.batch(&[entry], &[0, 0], 7).unwrap();
            assert_eq!(drawn.num_cond, expected);
            assert_eq!(drawn.condition, condition);
        }
    }
}
