use std::path::Path;

use burn::module::AutodiffModule;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::{LongCatTransformer, TextCondition};

use super::batch::Draws;
use super::export::{RunInfo, export};
use super::guided::Guidance;
use super::sample::Sampler;
use super::teacher::Teacher;
use crate::cache::{Dataset, TextTable};
use crate::config::TrainConfig;
use crate::parameters::{read, trained, update};
use crate::sampling::{Order, Purpose, dropout_mask, stream};
use crate::trainer::{Position, Task};
use crate::{Batch, Gradients, TrainBackend, TrainError, TrainStep};

/// The transformer on cached clips.
pub struct TransformerTask<B: TrainBackend> {
    config: TrainConfig,
    training: Dataset,
    validation: Dataset,
    texts: TextTable,
    order: Order,
    draws: Draws,
    teacher: Option<Teacher>,
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
        if training.entries.iter().all(|e| e.repeats == 0) {
            let reason = format!("no clip in {}", config.data.path.display());
            return Err(config.problem("data.path", reason));
        }
        let repeats = config.data.repeats;
        let mut conditioned = training.entries.iter().filter(|e| e.condition.is_some());
        if let Some(entry) = conditioned.next().filter(|_| config.objective.refine > 0.0) {
            let clip = entry.clip.display();
            let reason = format!("refining is trained without conditions, and {clip} has one");
            return Err(config.problem("objective.refine", reason));
        }
        let items: Vec<_> = training
            .entries
            .iter()
            .map(|e| ((e.shape, e.condition), e.repeats * repeats))
            .collect();
        let sampler = match config.samples.every {
            0 => None,
            _ => Some(Sampler::new(config)?),
        };
        let teacher = Teacher::new(config)?;
        Ok(Self {
            order: Order::new(config.seed, config.train.batch, &items),
            draws: Draws::new(config, teacher.as_ref()),
            teacher,
            config: config.clone(),
            training,
            validation,
            texts,
            info,
            sampler,
            device: device.clone(),
        })
    }

    /// Batch number `index` of the run, of which `model` may make the condition and, with guidance,
    /// the target; `text` encodes its captions, which are those after dropout, and `plain` empty ones,
    /// without a gradient.
    pub(super) fn batch(
        &self,
        index: u64,
        model: &LongCatTransformer<B>,
        text: impl FnOnce(&[String]) -> Result<TextCondition<B::InnerBackend>, TrainError>,
        plain: impl Fn(&[String]) -> Result<TextCondition<B::InnerBackend>, TrainError>,
    ) -> Result<Batch<B::InnerBackend>, TrainError> {
        let members = self.order.batch(index);
        let drawn = self.draws.batch(&self.training.entries, &members, index)?;
        let text = text(&drawn.captions)?;
        let objective = &self.config.objective;
        let guided = |scale: f64| self.guidance(scale, &drawn.captions, &plain);
        let guidance = guided(objective.guidance)?;
        let own_guidance = match drawn.has_own_condition() {
            true => guided(objective.own_guidance)?,
            false => None,
        };
        let (mut batch, own) = drawn.assemble(text, &self.device);
        if own.is_none() && guidance.is_none() {
            return Ok(batch);
        }
        let model = model.valid();
        if let Some(own) = own {
            batch = own.apply(&model, own_guidance.as_ref(), batch)?;
        }
        match guidance {
            Some(guidance) => guidance.aim(&model, batch),
            None => Ok(batch),
        }
    }

    /// Guidance for samples with these captions, unless the scale is 1.
    fn guidance(
        &self,
        scale: f64,
        captions: &[String],
        text: impl FnOnce(&[String]) -> Result<TextCondition<B::InnerBackend>, TrainError>,
    ) -> Result<Option<Guidance<B::InnerBackend>>, TrainError> {
        if scale == 1.0 {
            return Ok(None);
        }
        let scales = captions.iter().map(|caption| match caption.is_empty() {
            true => 1.0,
            false => scale as f32,
        });
        let scales = TensorData::new(scales.collect(), [captions.len()]);
        Ok(Some(Guidance {
            empty: text(&vec![String::new(); captions.len()])?,
            scale: Tensor::from_data(scales, (&self.device, DType::F32)),
        }))
    }

    /// Embeddings of captions, from the cache.
    fn cached_text(
        &self,
        captions: &[String],
    ) -> Result<TextCondition<B::InnerBackend>, TrainError> {
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

    /// A batch whose loss asks for what the teacher predicts.
    fn taught(
        &self,
        teacher: &Teacher,
        model: &LongCatTransformer<B>,
        index: u64,
    ) -> Result<Batch<B::InnerBackend>, TrainError> {
        let text = |captions: &[String]| self.cached_text(captions);
        let batch = self.batch(index, model, text, text)?;
        let members = batch.x0.dims()[0];
        let negative = self.cached_text(&vec![String::new(); members])?;
        teacher.teach(model.valid(), batch, &negative)
    }

    /// Mean validation loss per noise level, of the guided prediction if guidance is trained.
    pub(super) fn validation_means(
        &self,
        model: &LongCatTransformer<B>,
        text: impl Fn(&[String]) -> Result<TextCondition<B::InnerBackend>, TrainError>,
    ) -> Result<Vec<(f64, f64)>, TrainError> {
        let plain = model.valid();
        let sigmas = &self.config.validation.sigmas;
        let clips = self.validation.entries.len().max(1) as f64;
        let mut means: Vec<(f64, f64)> = sigmas.iter().map(|sigma| (*sigma, 0.0)).collect();
        for (number, entry) in self.validation.entries.iter().enumerate() {
            let caption = std::slice::from_ref(&entry.caption);
            let condition = text(caption)?;
            let guidance = self.guidance(self.config.objective.guidance, caption, &text)?;
            for (i, sigma) in sigmas.iter().enumerate() {
                // The same noise in every run with this seed.
                let stream = (number * sigmas.len() + i) as u64;
                let drawn = self.draws.validation(entry, *sigma, stream)?;
                let (batch, _) = drawn.assemble(condition.clone(), &self.device);
                let loss = match &guidance {
                    None => TrainStep::loss(model, &batch)?,
                    Some(guidance) => {
                        let batch = guidance.aim(&plain, batch)?;
                        let scale = guidance.scale.clone();
                        TrainStep::loss(model, &batch)? * scale.square()
                    }
                };
                let value = read(loss, "the validation loss")?;
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
        let batch = match &self.teacher {
            Some(teacher) => self.taught(teacher, model, index)?,
            None => {
                let text = |captions: &[String]| self.cached_text(captions);
                self.batch(index, model, text, text)?
            }
        };
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
        self.validation_means(model, |captions| self.cached_text(captions))
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
