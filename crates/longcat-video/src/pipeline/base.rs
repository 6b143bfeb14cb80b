//! The models of a checkpoint on their devices.

use std::sync::OnceLock;

use burn::tensor::Tensor;
use longcat_dit::{DitConfig, DitError, LongCatTransformer, TextCondition};
use longcat_kernels::{KernelBackend, Stage, guard};
use longcat_lora::Requantized;
use longcat_text::TextEncoder;
use longcat_vae::{WanVae, WanVaeConfig};
use longcat_weights::ConfigError;

use super::denoise::{CleanFrames, Denoise};
use super::observer::{Follower, StepHook};
use super::predict::{Conditions, Model};
use super::products::{check_attention, check_products, check_shares};
use super::prompts::{EncodedPrompts, EncodedText};
use super::request::check_size;
use super::{EasyCache, Observer, PipelineOptions, StepEvent};
use crate::adapters::Adapters;
use crate::checkpoint::Checkpoint;
use crate::defaults::VideoDefaults;
use crate::latents::Latents;
use crate::memory::{DeviceRates, ModelSizes, TransformerPlan};
use crate::noise::{NoisePurpose, NoiseSource, noise_tensor};
use crate::scheduler::{FlowMatchScheduler, Schedule};
use crate::{CheckpointParts, VideoError, VideoSize};

/// The models of one checkpoint on a device, the transformer on more if asked
/// ([`Pipeline::denoise_on`]).
///
/// Components are loaded when first needed. Configs are read when the pipeline is opened, so that a
/// request that cannot work is refused before any weight is read.
#[derive(Debug)]
pub struct Pipeline<B: KernelBackend> {
    pub(super) checkpoint: Checkpoint,
    pub(super) options: PipelineOptions,
    /// The first one runs everything, the others take part in denoising.
    pub(super) devices: Vec<B::Device>,
    transformer_config: DitConfig,
    vae_config: WanVaeConfig,
    scheduler: FlowMatchScheduler,
    pub(crate) adapters: Adapters,
    pub(super) text_encoder: Option<TextEncoder<B>>,
    /// Layers that stay on the device in the loaded text encoder.
    pub(super) text_layers: usize,
    /// What was encoded last.
    pub(super) prompts: Option<EncodedPrompts<B>>,
    /// A replica for each device, or none while it is not loaded.
    pub(super) transformers: Vec<LongCatTransformer<B>>,
    pub(super) vae: Option<WanVae<B>>,
    step_hook: Option<StepHook<B>>,
    /// Bytes of the models, once they were asked for: headers of weights are read for them.
    pub(super) sizes: OnceLock<ModelSizes>,
    /// How fast the first device works, once it was asked for.
    pub(super) rates: OnceLock<DeviceRates>,
    /// Bytes that may be taken.
    pub(super) budget: Option<u64>,
    /// What the run under way does so that it fits.
    pub(super) memory: TransformerPlan,
    /// Blocks that stay on the device in the loaded transformers.
    pub(super) resident: usize,
    /// What packing merged weights again changed, until a run tells of it.
    pub(super) requantized: Option<Requantized>,
}

/// The result of a run, before decoding.
#[derive(Debug, Clone)]
pub struct Generated<B: KernelBackend> {
    /// Clean latents `[B, C, T, H, W]`, normalised, fp32.
    pub latents: Tensor<B, 5>,
    /// The text they were conditioned on; under guidance the negative prompts come first.
    pub text: TextCondition<B>,
    /// The schedule they were made with.
    pub schedule: Schedule,
}

/// What denoising begins with, before the transformer is there.
pub(crate) struct Denoising<B: KernelBackend> {
    pub text: EncodedText<B>,
    pub schedule: Schedule,
    /// Noise `[B, C, T, H, W]`, behind clean conditions if these are among the latents.
    pub latents: Tensor<B, 5>,
    /// Leading latents that are clean conditions.
    pub num_cond: usize,
    /// Clean frames in front, which are not among the latents.
    pub clean: Option<CleanFrames<B>>,
    /// When passes are left out, if they may be.
    pub cache: Option<EasyCache>,
}

impl<B: KernelBackend> Pipeline<B> {
    /// Opens a checkpoint, the path of a directory or [`CheckpointParts`], and reads its configs.
    ///
    /// # Errors
    /// [`VideoError`] names the part, file and key.
    pub fn open(
        parts: impl Into<CheckpointParts>,
        options: PipelineOptions,
        device: &B::Device,
    ) -> Result<Self, VideoError> {
        let checkpoint = Checkpoint::open(parts)?;
        let transformer_config = checkpoint.transformer_config()?;
        let vae_config = checkpoint.vae_config()?;
        if vae_config.z_dim != transformer_config.in_channels {
            let error = ConfigError::Invalid {
                path: checkpoint.vae_path().join("config.json"),
                key: "z_dim".into(),
                value: vae_config.z_dim.to_string(),
                expected: format!(
                    "the transformer's in_channels is {}; they must be equal",
                    transformer_config.in_channels
                ),
            };
            return Err(error.into());
        }
        check_products::<B>(&checkpoint, &transformer_config, &options, device)?;
        check_attention::<B>(&transformer_config, &options, device)?;
        let depth = transformer_config.depth;
        Ok(Self {
            scheduler: checkpoint.scheduler()?,
            adapters: Adapters::new(&transformer_config),
            checkpoint,
            options,
            devices: vec![device.clone()],
            transformer_config,
            vae_config,
            text_encoder: None,
            text_layers: 0,
            prompts: None,
            transformers: Vec::new(),
            vae: None,
            step_hook: None,
            sizes: OnceLock::new(),
            rates: OnceLock::new(),
            budget: options.memory.within(B::memory(device).free),
            memory: TransformerPlan::resident(depth),
            resident: 0,
            requantized: None,
        })
    }

    /// The checkpoint directory.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Size, length and rate of its videos where a request leaves them open.
    pub fn defaults(&self) -> &VideoDefaults {
        self.checkpoint.defaults()
    }

    /// How the pipeline treats its components.
    pub fn options(&self) -> &PipelineOptions {
        &self.options
    }

    /// Lets other devices take part in denoising; the transformer is then on each of them, too.
    ///
    /// Two devices take one pass each under guidance. Otherwise each takes a share of the latent
    /// frames, and of the attention heads where tokens attend to each other.
    ///
    /// # Errors
    /// [`VideoError::Dit`] if the attention heads cannot be dealt out to that many devices,
    /// [`VideoError::Invalid`] if one of them does not compute in the numbers that the options ask for.
    pub fn denoise_on(&mut self, others: &[B::Device]) -> Result<(), VideoError> {
        let (devices, heads) = (1 + others.len(), self.transformer_config.num_heads);
        if !heads.is_multiple_of(devices) {
            return Err(VideoError::Dit(DitError::Devices {
                devices,
                what: "attention heads evenly",
                count: heads,
            }));
        }
        for device in others {
            check_shares::<B>(&self.options, device)?;
        }
        self.devices.truncate(1);
        self.devices.extend_from_slice(others);
        self.transformers.clear();
        Ok(())
    }

    /// Calls `hook` with the tensors of every denoising step from now on, in the place of an earlier
    /// hook. An [`Observer`] hears of steps without their tensors.
    pub fn on_step(&mut self, hook: impl FnMut(&StepEvent<'_, B>) + Send + 'static) {
        self.step_hook = Some(StepHook::new(hook));
    }

    /// The device that everything runs on, denoising perhaps not alone.
    pub fn device(&self) -> &B::Device {
        &self.devices[0]
    }

    /// The transformer's config.
    pub(crate) fn transformer_config(&self) -> &DitConfig {
        &self.transformer_config
    }

    /// The VAE's config.
    pub fn vae_config(&self) -> &WanVaeConfig {
        &self.vae_config
    }

    /// The scheduler.
    pub(crate) fn scheduler(&self) -> &FlowMatchScheduler {
        &self.scheduler
    }

    /// Pixels that one token covers per side.
    pub(crate) fn pixel_multiple(&self) -> usize {
        self.vae_config.scale_factor_spatial * self.transformer_config.patch_size[1]
    }

    /// Height and width in latents.
    pub(crate) fn latent_size(&self, size: VideoSize) -> Result<[usize; 2], VideoError> {
        check_size(size, self.pixel_multiple())?;
        let factor = self.vae_config.scale_factor_spatial;
        Ok([size.height / factor, size.width / factor])
    }

    /// The size that a request asks for, or the one nearest in shape to the given picture.
    pub(crate) fn size_for(
        &self,
        asked: Option<VideoSize>,
        given: VideoSize,
    ) -> Result<VideoSize, VideoError> {
        match asked {
            Some(size) => Ok(size),
            None => self.defaults().size_for(given),
        }
    }

    /// The noise that so many videos of this latent size (frames, height, width) are made of.
    pub(crate) fn initial_noise(
        &self,
        videos: usize,
        [frames, height, width]: [usize; 3],
        noise: &mut dyn NoiseSource,
    ) -> Tensor<B, 5> {
        let channels = self.transformer_config().in_channels;
        let shape = [videos, channels, frames, height, width];
        noise_tensor(noise, NoisePurpose::Initial, shape, self.device())
    }

    /// Runs the transformer and hands the final latents to the observer.
    pub(crate) fn denoise(
        &mut self,
        run: Denoising<B>,
        observer: &mut dyn Observer,
    ) -> Result<Generated<B>, VideoError> {
        observer.stage("transformer");
        self.transformers()?;
        if let Some(off) = self.requantized.take() {
            observer.requantized(&off);
        }
        observer.stage("denoise");
        let timed = self.adapters.timed();
        let model = Model {
            replicas: &self.transformers,
            devices: &self.devices,
            timed: &timed,
        };
        let mut follower = Follower {
            observer: &mut *observer,
            hook: self.step_hook.as_mut(),
        };
        let Denoising { text, schedule, .. } = run;
        let front = run.clean.as_ref().map(|clean| clean.latents.clone());
        let made = Denoise {
            model: &model,
            guidance: text.guidance,
            schedule: &schedule,
            conditions: Conditions {
                text: &text.condition,
                guided: text.guidance.is_some(),
                num_cond: run.num_cond,
                caches: &[],
            },
            clean: run.clean,
            cache: run.cache,
        }
        .run(run.latents, &mut follower)?;
        let latents = match front {
            Some(front) => Tensor::cat(vec![front, made], 2),
            None => made,
        };
        observer.latents(&self.read_latents(latents.clone())?)?;
        Ok(Generated {
            latents,
            text: text.condition,
            schedule,
        })
    }

    /// Latents on the host.
    ///
    /// # Errors
    /// [`VideoError::Device`] when a device has failed.
    pub fn read_latents(&self, latents: Tensor<B, 5>) -> Result<Latents, VideoError> {
        guard::<B, _, _>(&self.devices, Stage::Saving, || {
            Latents::from_tensor(latents)
        })
    }

    /// Runs work on the first device whose result is used only if the device did it.
    pub(crate) fn guarded<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce(&mut Self) -> Result<T, VideoError>,
    ) -> Result<T, VideoError> {
        let device = [self.device().clone()];
        guard::<B, _, _>(&device, stage, || work(self))
    }
}
