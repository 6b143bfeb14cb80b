use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::{LongCatTransformer, TextCondition};

use super::export::{RunInfo, export};
use super::sample::Sampler;
use crate::cache::{Dataset, Entry, TextTable};
use crate::config::{PosteriorChoice, TrainConfig};
use crate::parameters::{read, trained, update};
use crate::sampling::{Draw, Order, Purpose, dropout_mask, normals, stream};
use crate::trainer::{Position, Task};
use crate::{Batch, Gradients, TrainBackend, TrainError, TrainStep};

/// The transformer on cached clips.
pub struct TransformerTask<B: TrainBackend> {
    config: TrainConfig,
    training: Dataset,
    validation: Dataset,
    texts: TextTable,
    order: Order,
    info: RunInfo,
    sampler: Option<Sampler>,
    device: B::Device,
}

impl<B: TrainBackend> TransformerTask<B> {
    /// The task of a configuration. Held-out clips are those of `validation`; `texts` holds all
    /// captions, the empty one, and the prompts of samples.
    ///
    /// # Errors
    /// [`TrainError::Config`] when there are no clips, or clips are too short for the conditions.
    pub fn new(
        config: &TrainConfig,
        training: Dataset,
        validation: Dataset,
        texts: TextTable,
        info: RunInfo,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let problem = |key: &str, reason: String| TrainError::Config {
            path: config.output.clone(),
            key: key.into(),
            reason,
        };
        if training.entries.iter().all(|e| e.repeats == 0) {
            let reason = format!("no clip in {}", config.data.path.display());
            return Err(problem("data.path", reason));
        }
        let repeats = config.data.repeats;
        let items: Vec<([usize; 4], usize)> = training
            .entries
            .iter()
            .map(|e| (e.shape, e.repeats * repeats))
            .collect();
        let sampler = match config.samples.every {
            0 => None,
            _ => Some(Sampler::new(config)?),
        };
        Ok(Self {
            order: Order::new(config.seed, config.train.batch, &items),
            config: config.clone(),
            training,
            validation,
            texts,
            info,
            sampler,
            device: device.clone(),
        })
    }

    /// How many condition frames a batch of `frames` latent frames has.
    fn conditions(&self, draw: f64, frames: usize) -> usize {
        let objective = &self.config.objective;
        let wanted = if draw < objective.image_condition {
            1
        } else if draw < objective.image_condition + objective.continuation {
            objective.continuation_latents
        } else {
            0
        };
        // A clip too short for the condition is trained without one.
        if wanted < frames { wanted } else { 0 }
    }

    /// Batch number `index` of the run, and its captions after dropout.
    pub(super) fn batch(
        &self,
        index: u64,
    ) -> Result<(Batch<B::InnerBackend>, Vec<String>), TrainError> {
        let members = self.order.batch(index);
        let first = index * self.config.train.batch as u64;
        let shape = self.training.entries[members[0]].shape;
        let elements: usize = shape.iter().product();
        let draws: Vec<Draw> = (0..members.len() as u64)
            .map(|i| {
                Draw::new(
                    self.config.seed,
                    first + i,
                    &self.config.objective,
                    elements,
                )
            })
            .collect();
        let caption = |(member, draw): (&usize, &Draw)| match draw.drop_caption {
            true => String::new(),
            false => self.training.entries[*member].caption.clone(),
        };
        let captions: Vec<String> = members.iter().zip(&draws).map(caption).collect();
        let samples = members
            .iter()
            .zip(&draws)
            .zip(&captions)
            .map(|((member, draw), caption)| {
                let entry = &self.training.entries[*member];
                Ok(Sample {
                    latents: latents(entry, self.config.cache.posterior, &draw.posterior)?,
                    noise: draw.noise.clone(),
                    sigma: draw.sigma,
                    text: self.texts.read(caption)?,
                })
            })
            .collect::<Result<Vec<_>, TrainError>>()?;
        let num_cond = self.conditions(draws[0].condition, shape[1]);
        Ok((assemble(samples, shape, num_cond, &self.device), captions))
    }

    /// Mean validation loss per noise level, given that of a batch of one clip and its caption.
    pub(super) fn validation_means(
        &self,
        loss: impl Fn(Batch<B::InnerBackend>, &str) -> Result<Tensor<B::InnerBackend, 1>, TrainError>,
    ) -> Result<Vec<(f64, f64)>, TrainError> {
        let sigmas = &self.config.validation.sigmas;
        let clips = self.validation.entries.len().max(1) as f64;
        let mut means: Vec<(f64, f64)> = sigmas.iter().map(|sigma| (*sigma, 0.0)).collect();
        for (number, entry) in self.validation.entries.iter().enumerate() {
            for (i, sigma) in sigmas.iter().enumerate() {
                // The same noise in every run with this seed.
                let stream_number = (number * sigmas.len() + i) as u64;
                let mut rng = stream(self.config.seed, Purpose::Validation, stream_number);
                let sample = Sample {
                    latents: latents(entry, PosteriorChoice::Mode, &[])?,
                    noise: normals(&mut rng, entry.shape.iter().product()),
                    sigma: *sigma as f32,
                    text: self.texts.read(&entry.caption)?,
                };
                let batch = assemble(vec![sample], entry.shape, 0, &self.device);
                let value = read(loss(batch, &entry.caption)?, "the validation loss")?;
                means[i].1 += f64::from(value[0]) / clips;
            }
        }
        Ok(means)
    }

    pub(super) fn config(&self) -> &TrainConfig {
        &self.config
    }

    pub(super) fn device(&self) -> &B::Device {
        &self.device
    }

    pub(super) fn sampler(&self) -> Option<&Sampler> {
        self.sampler.as_ref()
    }

    /// Factors' input sides with some input features left out, and the masks by path.
    fn dropped(
        &self,
        model: &LongCatTransformer<B>,
        index: u64,
    ) -> (LongCatTransformer<B>, Masks<B::InnerBackend>) {
        let mut rng = stream(self.config.seed, Purpose::Dropout, index);
        let mut masks = Vec::new();
        for (path, parameter) in trained::<B, _>(model) {
            if let ([rows, features], true) = (&parameter.shape[..], path.ends_with(".down")) {
                let mask = dropout_mask(&mut rng, *features, self.config.lora.dropout);
                let mask = mask.repeat(*rows);
                let length = mask.len();
                let data = TensorData::new(mask, [length]);
                let mask = Tensor::from_data(data, (&self.device, DType::F32));
                masks.push((path, mask));
            }
        }
        let model = update::<B, _>(model.clone(), |path, values| {
            let (_, mask) = masks.iter().find(|(p, _)| p == path)?;
            Some(values * mask.clone())
        });
        (model, masks)
    }
}

/// Factors to multiply parameters by, by path.
type Masks<B> = Vec<(String, Tensor<B, 1>)>;

/// One sample of a batch on the host.
struct Sample {
    latents: Vec<f32>,
    noise: Vec<f32>,
    sigma: f32,
    text: (TensorData, Vec<bool>),
}

fn latents(
    entry: &Entry,
    posterior: PosteriorChoice,
    noise: &[f32],
) -> Result<Vec<f32>, TrainError> {
    let [mean, deviation] = entry.read()?;
    let mean = mean.iter::<f32>();
    Ok(match posterior {
        PosteriorChoice::Mode => mean.collect(),
        PosteriorChoice::Sample => mean
            .zip(deviation.iter::<f32>())
            .zip(noise)
            .map(|((mean, deviation), noise)| mean + deviation * noise)
            .collect(),
    })
}

fn assemble<B: Backend>(
    samples: Vec<Sample>,
    shape: [usize; 4],
    num_cond: usize,
    device: &B::Device,
) -> Batch<B> {
    let count = samples.len();
    let [c, t, h, w] = shape;
    let stack = |pick: fn(&Sample) -> &[f32]| {
        let values: Vec<f32> = samples
            .iter()
            .flat_map(|s| pick(s).iter().copied())
            .collect();
        let data = TensorData::new(values, [count, c, t, h, w]);
        Tensor::<B, 5>::from_data(data, (device, DType::F32))
    };
    let (x0, noise) = (stack(|s| &s.latents), stack(|s| &s.noise));
    let sigmas: Vec<f32> = samples.iter().map(|s| s.sigma).collect();
    let sigma = Tensor::from_data(TensorData::new(sigmas, [count]), (device, DType::F32));
    let (embeds, mask): (Vec<_>, Vec<_>) = samples
        .into_iter()
        .map(|s| {
            let data = s.text.0;
            let embeds = Tensor::<B, 2>::from_data(data, (device, DType::F32));
            (embeds.unsqueeze_dim::<3>(0), s.text.1)
        })
        .unzip();
    Batch {
        x0,
        noise,
        sigma,
        text: TextCondition {
            embeds: Tensor::cat(embeds, 0),
            mask: Some(mask),
        },
        num_cond,
    }
}

impl<B: TrainBackend> Task<B> for TransformerTask<B> {
    type Model = LongCatTransformer<B>;

    fn batches_per_epoch(&self) -> usize {
        self.order.batches_per_epoch()
    }

    fn gradients(
        &self,
        model: &Self::Model,
        index: u64,
    ) -> Result<(f64, Gradients<B::InnerBackend>), TrainError> {
        let step = TrainStep {
            checkpointed: self.config.train.checkpointing,
        };
        let (batch, _) = self.batch(index)?;
        let output = match self.config.lora.dropout > 0.0 {
            false => step.run(model, &batch)?,
            true => {
                let (dropped, masks) = self.dropped(model, index);
                let mut output = step.run(&dropped, &batch)?;
                // The gradient at the masked factor, through the mask to the factor itself.
                for (path, mask) in masks {
                    output.gradients.multiply(&path, mask);
                }
                output
            }
        };
        let loss = read(output.loss, "the loss")?;
        Ok((f64::from(loss[0]), output.gradients))
    }

    fn validate(&self, model: &Self::Model) -> Result<Vec<(f64, f64)>, TrainError> {
        self.validation_means(|batch, _| TrainStep::loss(model, &batch))
    }

    fn export(
        &self,
        model: &Self::Model,
        folder: &Path,
        name: &str,
        position: &Position,
    ) -> Result<(), TrainError> {
        export(&self.config, &self.info, model, folder, name, position)
    }

    fn sample(&self, model: &Self::Model, folder: &Path) -> Result<(), TrainError> {
        match &self.sampler {
            Some(sampler) => {
                let texts = |prompt: &str| self.texts.read(prompt);
                sampler.run(model, &texts, &self.device, folder)
            }
            None => Ok(()),
        }
    }
}
