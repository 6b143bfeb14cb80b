//! What the stages of a run take of a device's memory, and what is done so that they fit.

use longcat_kernels::{KernelBackend, wait};
use longcat_video::{
    Asked, Checkpoint, ClipSizes, DeviceSizes, DoesNotFit, KeptWeights, MemoryLimit, ModelSizes,
    TextPlan, TextSizes, Tiling, TrainingPlan, TrainingSizes, VaePlan,
};

use crate::TrainError;
use crate::config::{Mode, Precision, TrainConfig};
use crate::data::Bucket;

/// Bytes of a trained number between steps: it and its moments.
const KEPT: u64 = 12;

/// What else makes clips smaller.
const FEWER: &str = "so do fewer data.frames and smaller data.sizes";

/// Memory of a device that a run may take.
pub(crate) struct Room<'a> {
    config: &'a TrainConfig,
    models: ModelSizes,
    budget: Option<u64>,
}

/// How clips of one kind pass through the VAE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClipsPlan {
    /// So many at a time.
    pub at_once: usize,
    /// Tiles, where a picture is not taken as a whole.
    pub tiling: Option<Tiling>,
}

impl<'a> Room<'a> {
    /// What may be taken now. What others have left in pools is given back first.
    ///
    /// # Errors
    /// Configs of the checkpoint that cannot be read.
    pub fn now<B: KernelBackend>(
        config: &'a TrainConfig,
        checkpoint: &Checkpoint,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        // It is free once it is given back and the device was waited for.
        B::memory_cleanup(device);
        wait::<B>(device);
        let memory = B::memory(device);
        let own = DeviceSizes {
            context: memory.context,
            convolutions: B::patch_bytes(device) as u64,
        };
        let (transformer, vae) = (checkpoint.transformer_config()?, checkpoint.vae_config()?);
        let kept = KeptWeights {
            precision: config.model.precision.kept(),
            transformer: checkpoint.transformer_weights().ok(),
            text: None,
        };
        let dtypes = (config.model.dtype.dtype(), Precision::F32.dtype());
        let mut models = ModelSizes::new((&transformer, None, &vae), dtypes, &kept, own);
        if let Some(text) = checkpoint.text_config() {
            let kept = KeptWeights {
                text: checkpoint.text_weights(),
                ..KeptWeights::default()
            };
            models.text = TextSizes::new(&text, config.cache.text_precision.dtype(), &kept);
        }
        Ok(Self {
            config,
            models,
            budget: config.memory.within(memory.free),
        })
    }

    /// How clips of a bucket pass through the encoder, `most` at a time, while no other model is there.
    ///
    /// # Errors
    /// [`TrainError::Config`] names `memory` where not even one fits in small tiles.
    pub fn clips(&self, bucket: &Bucket, most: usize) -> Result<ClipsPlan, TrainError> {
        // One clip passes through in time, several as wholes.
        let latents = (bucket.frames - 1) / self.models.vae.frames + 1;
        let clip = |samples: usize| ClipSizes {
            samples,
            frames: bucket.frames,
            size: [bucket.size.height, bucket.size.width],
            whole: true,
        };
        let fits = |at_once: &usize| {
            let whole = VaePlan::taken(&self.models, &clip(at_once * latents), None);
            self.budget.is_none_or(|budget| whole <= budget)
        };
        if let Some(at_once) = (2..=most).rev().find(fits) {
            return Ok(ClipsPlan {
                at_once,
                tiling: None,
            });
        }
        let stage = ("encoding clips", self.budget);
        let chosen = VaePlan::choose(&self.models, &clip(1), None, 0, stage);
        let chosen = chosen.map(|plan| plan.tiling);
        let tiling = self.or_least(chosen, Some(Tiling::default()), FEWER)?;
        Ok(ClipsPlan { at_once: 1, tiling })
    }

    /// Layers of the text encoder that stay on the device while a caption of so many tokens is encoded and
    /// no other model is there; `None` where all do.
    ///
    /// # Errors
    /// [`TrainError::Config`] names `memory` where not even streaming all layers makes it fit.
    pub fn text_layers(&self, tokens: usize) -> Result<Option<usize>, TrainError> {
        let mut models = self.models.clone();
        models.vae.weights = 0;
        let chosen = TextPlan::choose(&models, [1, tokens], &Asked::default(), self.budget);
        let help = "so does another cache.text_precision";
        let resident = self.or_least(chosen.map(|plan| plan.resident), 0, help)?;
        Ok((resident < models.text.layers.count()).then_some(resident))
    }

    /// What a training step takes; `None` where nothing can stream and no limit is kept.
    ///
    /// # Errors
    /// [`TrainError::Config`] names `memory` where not even streaming all blocks makes it fit.
    pub fn training(&self) -> Result<Option<TrainingPlan>, TrainError> {
        let (config, sizes) = (self.config, &self.models.transformer);
        if config.mode != Mode::Lora || !config.train.checkpointing {
            return Ok(None);
        }
        let plan = |resident, budget| {
            let step = TrainingSizes {
                resident,
                ..self.step()
            };
            TrainingPlan::choose(self.models.device, sizes, &step, budget)
        };
        if let Some(streamed) = Some(config.model.streamed_blocks).filter(|count| *count > 0) {
            let resident = sizes.blocks.count().saturating_sub(streamed);
            return Ok(plan(Some(resident), None).ok());
        }
        let least = plan(Some(0), None).ok();
        self.or_least(plan(None, self.budget).map(Some), least, FEWER)
    }

    /// Tiles in which sample videos are decoded beside the model that is trained so.
    pub fn sample_tiling(&self, plan: Option<&TrainingPlan>) -> Option<Tiling> {
        let samples = self.config.samples.as_ref()?;
        let sizes = &self.models.transformer;
        let resident = plan.map_or(sizes.blocks.count(), |plan| plan.resident);
        let kept = sizes.held(resident) + KEPT * self.step().trained;
        let clip = ClipSizes {
            samples: 1,
            frames: samples.frames,
            size: [samples.size.height, samples.size.width],
            whole: true,
        };
        let stage = ("decoding samples", self.budget);
        let plan = VaePlan::choose(&self.models, &clip, None, kept, stage);
        plan.map_or(Some(Tiling::default()), |plan| plan.tiling)
    }

    /// The largest step of a run.
    fn step(&self) -> TrainingSizes {
        let (config, models) = (self.config, &self.models);
        let sides = models
            .transformer
            .sides
            .map(|side| side * models.vae.factor);
        let frames = config.data.frames.iter().copied().max().unwrap_or(1);
        let latents = (frames - 1) / models.vae.frames + 1;
        let spaces = config.data.sizes.iter();
        let spaces = spaces.map(|size| size.height / sides[0] * (size.width / sides[1]));
        // The layers that the released adapters have; others are few.
        let factors = 17 * models.transformer.width + 3 * models.transformer.hidden;
        let depth = models.transformer.blocks.count();
        TrainingSizes {
            tokens: latents * spaces.max().unwrap_or(0) * config.train.batch,
            trained: (depth * config.lora.adapter.rank * factors) as u64,
            averaged: config.optimizer.ema_decay.is_some(),
            resident: None,
        }
    }

    /// What was chosen, or an error where a limit that was asked for cannot be kept. What is free is not a
    /// promise to keep: what can be done is done then.
    fn or_least<T>(
        &self,
        chosen: Result<T, DoesNotFit>,
        least: T,
        help: &str,
    ) -> Result<T, TrainError> {
        match (chosen, self.config.memory) {
            (Ok(chosen), _) => Ok(chosen),
            (Err(error), MemoryLimit::AtMost(_)) => {
                Err(self.config.problem("memory", format!("{error}; {help}")))
            }
            (Err(_), _) => Ok(least),
        }
    }
}
