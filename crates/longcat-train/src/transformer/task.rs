//! The transformer as a task.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::{LongCatTransformer, TextCondition};
use longcat_video::Tiling;

use super::batch::Draws;
use super::export::{RunInfo, export};
use super::sample::{EncodedText, Sampler};
use super::teacher::Teacher;
use super::transform::{BatchSamples, BatchTransform, EncodedCaptions};
use crate::cache::TextTable;
use crate::config::TrainConfig;
use crate::observe::stop;
use crate::order::BatchOrder;
use crate::parameters::{read_values, trained, update};
use crate::prepare::TrainingData;
use crate::sampling::{Purpose, dropout_mask, stream};
use crate::trainer::{Position, Task, Weights};
use crate::{Batch, Gradients, TrainBackend, TrainError, TrainStep};

/// The transformer on cached clips.
pub struct TransformerTask<B: TrainBackend> {
    config: TrainConfig,
    data: TrainingData,
    texts: TextTable,
    order: BatchOrder,
    draws: Draws,
    transforms: Vec<Box<dyn BatchTransform<B>>>,
    info: RunInfo,
    sampler: Option<Sampler>,
    device: B::Device,
}

impl<B: TrainBackend> TransformerTask<B> {
    /// The task of a configuration. `texts` holds all captions, the empty one, and the prompts of
    /// samples. Every batch goes through `transforms`, one after the other, and then to the teacher if
    /// the objective has one.
    ///
    /// # Errors
    /// [`TrainError::Config`] when there are no clips, [`TrainError::EpochTooLong`].
    pub fn new(
        config: &TrainConfig,
        data: TrainingData,
        texts: TextTable,
        transforms: Vec<Box<dyn BatchTransform<B>>>,
        info: RunInfo,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let training = &data.training.entries;
        let repeats = training.iter().map(|e| e.repeats);
        config.some_clip("data.path", &config.data.path, repeats)?;
        let items: Vec<_> = training
            .iter()
            .map(|e| ((e.shape, e.condition), e.repeats))
            .collect();
        let (seed, batch) = (config.seed, config.train.batch);
        let teacher = Teacher::new(config)?;
        let draws = Draws::new(config, teacher.as_ref());
        let mut transforms = transforms;
        transforms.extend(teacher.map(|teacher| Box::new(teacher) as Box<_>));
        Ok(Self {
            order: BatchOrder::new(seed, batch, &items, config.data.repeats)?,
            draws,
            transforms,
            sampler: Sampler::new(config)?,
            config: config.clone(),
            data,
            texts,
            info,
            device: device.clone(),
        })
    }

    /// The same, with sample videos that are decoded in tiles; as whole pictures otherwise.
    pub fn with_sample_tiling(mut self, tiling: Option<Tiling>) -> Self {
        if let Some(sampler) = &mut self.sampler {
            sampler.tiling = tiling;
        }
        self
    }

    /// Batch number `index` of the run, after its transforms. `text` encodes its captions, which are
    /// those after dropout; `plain` encodes captions for the transforms, without a gradient.
    ///
    /// # Errors
    /// Whatever reading, encoding and transforming reports.
    pub fn batch(
        &self,
        index: u64,
        model: &LongCatTransformer<B>,
        text: impl FnOnce(&[String]) -> EncodedCaptions<B>,
        plain: impl Fn(&[String]) -> EncodedCaptions<B>,
    ) -> Result<Batch<B::InnerBackend>, TrainError> {
        let members = self.order.batch(index);
        let entries = &self.data.training.entries;
        let mut drawn = self.draws.batch(entries, &members, index)?;
        let captions = std::mem::take(&mut drawn.captions);
        let samples = BatchSamples {
            first: self.draws.first(index),
            captions: &captions,
            condition: drawn.condition,
            encode: &plain,
        };
        let mut batch = drawn.assemble(text(&captions)?, &self.device);
        for transform in &self.transforms {
            batch = transform.apply(model, &samples, batch)?;
        }
        Ok(batch)
    }

    /// Embeddings of captions, from the cache.
    fn cached_text(&self, captions: &[String]) -> EncodedCaptions<B> {
        let parts = captions.iter().map(|caption| {
            let (embeds, mask) = self.texts.read(caption)?;
            let embeds =
                Tensor::<B::InnerBackend, 2>::from_data(embeds, (&self.device, DType::F32));
            Ok(TextCondition {
                embeds: embeds.unsqueeze_dim(0),
                mask: Some(vec![mask]),
            })
        });
        Ok(TextCondition::cat(
            parts.collect::<Result<_, TrainError>>()?,
        ))
    }

    /// Mean validation loss per noise level, with captions as `text` encodes them.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub fn validation_means(
        &self,
        model: &LongCatTransformer<B>,
        text: impl Fn(&[String]) -> EncodedCaptions<B>,
        interrupt: &AtomicBool,
    ) -> Result<Vec<(f64, f64)>, TrainError> {
        let validation = self.config.validation.as_ref();
        let sigmas = validation.map_or(&[][..], |v| &v.sigmas);
        let entries = &self.data.validation.entries;
        let clips = entries.len().max(1) as f64;
        let mut means: Vec<(f64, f64)> = sigmas.iter().map(|sigma| (*sigma, 0.0)).collect();
        for (number, entry) in entries.iter().enumerate() {
            let captions = &entry.captions[..1];
            let condition = text(captions)?;
            for (i, sigma) in sigmas.iter().enumerate() {
                stop(interrupt)?;
                // The same noise in every run with this seed.
                let stream = (number * sigmas.len() + i) as u64;
                let drawn = self.draws.validation(entry, *sigma, stream)?;
                let mut batch = drawn.assemble(condition.clone(), &self.device);
                let samples = BatchSamples {
                    first: number as u64,
                    captions,
                    condition: None,
                    encode: &text,
                };
                let mut factor = 1.0;
                for transform in &self.transforms {
                    let (transformed, by) = transform.validate(model, &samples, batch)?;
                    (batch, factor) = (transformed, factor * by);
                }
                let loss = TrainStep::loss(model, &batch)?;
                let loss = read_values(loss, "the validation loss")?[0] * factor;
                if !loss.is_finite() {
                    return Err(TrainError::NotFinite {
                        step: 0,
                        what: "the validation loss",
                        value: loss.into(),
                        clips: vec![entry.clip.display().to_string()],
                    });
                }
                means[i].1 += f64::from(loss) / clips;
            }
        }
        Ok(means)
    }

    /// A video per prompt of the configuration into a folder, with prompts as `texts` encodes them:
    /// embeddings `[L, width]`, and which tokens are text.
    ///
    /// # Errors
    /// Whatever encoding, denoising and writing reports.
    pub fn sample_with(
        &self,
        model: &LongCatTransformer<B>,
        texts: &dyn Fn(&str) -> EncodedText,
        folder: &Path,
        interrupt: &AtomicBool,
    ) -> Result<(), TrainError> {
        match &self.sampler {
            Some(sampler) => sampler.run(model, texts, &self.device, folder, interrupt),
            None => Ok(()),
        }
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
        let text = |captions: &[String]| self.cached_text(captions);
        let batch = self.batch(index, model, text, text)?;
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
        let loss = read_values(output.loss, "the loss")?;
        Ok((f64::from(loss[0]), output.gradients))
    }

    fn clips(&self, index: u64) -> Vec<String> {
        let members = self.order.batch(index).into_iter();
        let clips = members.map(|member| &self.data.training.entries[member].clip);
        clips.map(|clip| clip.display().to_string()).collect()
    }

    fn validate(
        &self,
        model: &Self::Model,
        interrupt: &AtomicBool,
    ) -> Result<Vec<(f64, f64)>, TrainError> {
        self.validation_means(model, |captions| self.cached_text(captions), interrupt)
    }

    fn export(
        &self,
        model: &Self::Model,
        folder: &Path,
        weights: Weights,
        position: &Position,
    ) -> Result<(), TrainError> {
        let (config, info) = (&self.config, &self.info);
        export(config, info, model, folder, weights, position, &self.device)
    }

    fn sample(
        &self,
        model: &Self::Model,
        folder: &Path,
        interrupt: &AtomicBool,
    ) -> Result<(), TrainError> {
        let texts = |prompt: &str| self.texts.read(prompt);
        self.sample_with(model, &texts, folder, interrupt)
    }
}
