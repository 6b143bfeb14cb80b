//! What the stages of a run take of a device's memory, and what is done so that they fit.

use std::path::Path;

use longcat_kernels::{KernelBackend, wait};
use longcat_video::{
    Asked, Checkpoint, ClipSizes, DeviceSizes, DoesNotFit, KeptWeights, MemoryLimit, ModelSizes,
    TextPlan, TextSizes, Tiling, TrainingPlan, TrainingSizes, VaePlan,
};

use crate::TrainError;
use crate::config::{Mode, Precision, TrainConfig, read_config};
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
    /// In tiles or not.
    pub vae: VaePlan,
}

/// What a run takes of a device's memory, and what is done so that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunPlan {
    /// Bytes that may be taken, if there is a limit.
    pub budget: Option<u64>,
    /// Clips to latents, the largest ones.
    pub clips: VaePlan,
    /// Captions to embeddings.
    pub captions: TextPlan,
    /// A step, where frozen blocks may pass through the device: an adapter, with checkpointing.
    pub step: Option<TrainingPlan>,
}

/// What the run of the file at `config` would take and do, before anything is loaded or read of its clips.
/// `default_checkpoint` is the base model of a file that names none.
///
/// # Errors
/// [`TrainError`] names the key or file; `memory` where it cannot be kept.
pub fn memory_plan<B: KernelBackend>(
    config: &Path,
    default_checkpoint: Option<&Path>,
    device: &B::Device,
) -> Result<RunPlan, TrainError> {
    let mut config = read_config(config)?;
    if let (None, Some(checkpoint)) = (&config.model.checkpoint, default_checkpoint) {
        config = config.with_checkpoint(checkpoint);
    }
    let checkpoint = Checkpoint::open(config.checkpoint()?)?;
    let room = Room::now::<B>(&config, &checkpoint, device)?;
    let frames = config.data.frames.iter().copied().max().unwrap_or(1);
    let sizes = config.data.sizes.iter();
    let largest = sizes.max_by_key(|size| size.width * size.height);
    let largest = largest.ok_or_else(|| config.problem("data.sizes", "must not be empty"))?;
    let bucket = Bucket {
        size: *largest,
        frames,
    };
    Ok(RunPlan {
        budget: room.budget,
        clips: room.clips(&bucket, 1)?.vae,
        captions: room.text(config.cache.text_length)?,
        step: room.training()?,
    })
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
        let whole = |at_once: usize| {
            let peak = VaePlan::taken(&self.models, &clip(at_once * latents), None);
            let vae = VaePlan { tiling: None, peak };
            ClipsPlan { at_once, vae }
        };
        let fits = |plan: &ClipsPlan| self.budget.is_none_or(|budget| plan.vae.peak <= budget);
        if let Some(several) = (2..=most).rev().map(whole).find(fits) {
            return Ok(several);
        }
        let choose = |tiling, budget| {
            let stage = ("encoding clips", budget);
            VaePlan::choose(&self.models, &clip(1), tiling, 0, stage)
        };
        let least = choose(Some(Tiling::default()), None);
        let vae = self.or_least(choose(None, self.budget), least, FEWER)?;
        Ok(ClipsPlan { at_once: 1, vae })
    }

    /// How captions of at most so many tokens are encoded, one at a time, while no other model is there.
    ///
    /// # Errors
    /// [`TrainError::Config`] names `memory` where not even streaming all layers makes it fit.
    pub fn text(&self, tokens: usize) -> Result<TextPlan, TrainError> {
        let choose = |resident_layers, budget| {
            let asked = Asked {
                resident_layers,
                ..Asked::default()
            };
            TextPlan::choose(&self.models, [1, tokens], &asked, budget)
        };
        let help = "so does another cache.text_precision";
        self.or_least(choose(None, self.budget), choose(Some(0), None), help)
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
        let chosen = match config.model.streamed_blocks {
            0 => plan(None, self.budget),
            streamed => plan(Some(sizes.blocks.count().saturating_sub(streamed)), None),
        };
        Ok(Some(self.or_least(chosen, plan(Some(0), None), FEWER)?))
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
        least: Result<T, DoesNotFit>,
        help: &str,
    ) -> Result<T, TrainError> {
        let chosen = match self.config.memory {
            MemoryLimit::AtMost(_) => chosen,
            _ => chosen.or(least),
        };
        chosen.map_err(|error| self.config.problem("memory", format!("{error}; {help}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use burn::tensor::DType;
    use longcat_dit::DitConfig;
    use longcat_text::Umt5Config;
    use longcat_vae::WanVaeConfig;

    use super::*;

    /// Plans of the released model within so many GiB.
    fn within<T>(gib: u64, plan: impl FnOnce(&Room<'_>) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        let text =
            "output = 'run'\ndata = { path = 'clips', sizes = ['832x480'], frames = [33] }\n";
        std::fs::write(&file, format!("memory = '{gib}GiB'\n{text}")).unwrap();
        let config = read_config(&file).unwrap();
        let text = Umt5Config::default();
        let own = DeviceSizes {
            context: 800_000_000,
            convolutions: 1 << 30,
        };
        let kept = KeptWeights::default();
        let (transformer, vae) = (DitConfig::default(), WanVaeConfig::default());
        let dtypes = (DType::BF16, DType::F32);
        let mut models = ModelSizes::new((&transformer, None, &vae), dtypes, &kept, own);
        models.text = TextSizes::new(&text, DType::F32, &kept);
        plan(&Room {
            config: &config,
            models,
            budget: config.memory.within(None),
        })
    }

    #[test]
    fn pictures_pass_through_the_encoder_together_where_they_fit() {
        let picture = Bucket {
            size: "512x512".parse().unwrap(),
            frames: 1,
        };
        // 12.9 GB each in f32, beside 2.4 GB.
        for (gib, at_once, tile) in [
            (200, 16, None),
            (40, 3, None),
            (28, 2, None),
            (16, 1, None),
            (12, 1, Some([384; 2])),
        ] {
            let plan = within(gib, |room| room.clips(&picture, 16)).unwrap();
            let found = plan.vae.tiling.map(|tiling| tiling.tile);
            assert_eq!((plan.at_once, found), (at_once, tile), "{gib}: {plan:?}");
            assert!(plan.vae.peak <= gib << 30);
        }
    }

    #[test]
    fn captions_and_steps_keep_to_a_limit() {
        // 22.8 GB of weights in f32.
        let text = |gib| within(gib, |room| room.text(512)).unwrap();
        assert_eq!(text(24).resident, 24);
        let streamed = text(16);
        assert!((10..18).contains(&streamed.resident), "{streamed:?}");
        assert!(streamed.peak <= 16 << 30);
        // 6 blocks were seen to stay within 22.9 GiB.
        let step = within(24, |room| room.training()).unwrap().unwrap();
        assert_eq!((step.resident, step.depth), (6, 48));
        let error = within(16, |room| room.training()).unwrap_err().to_string();
        for part in ["memory", "a training step", "data.frames"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
