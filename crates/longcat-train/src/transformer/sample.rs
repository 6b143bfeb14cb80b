//! Sample videos of a model in training.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::module::AutodiffModule;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::{LongCatTransformer, TextCondition};
use longcat_kernels::{KernelBackend, Stage, guard, wait};
use longcat_vae::{VaeError, VaeOptions};
use longcat_video::{
    Checkpoint, FlowMatchScheduler, NoisePurpose, NoiseSource, PixelFrames, Schedule, ScheduleMode,
    SeededNoise, Tiling, VideoError, cfg_zero,
};

use crate::config::{SampleConfig, TrainConfig};
use crate::observe::stop;
use crate::{TrainBackend, TrainError};

/// Frame rate of sample files, that of the release.
const FPS: f64 = 15.0;

/// Embeddings `[L, width]` of a prompt, and which tokens are text.
pub type EncodedText = Result<(TensorData, Vec<bool>), TrainError>;

/// Gives back what pools hold, which nothing after it may be of the size of.
fn give_back<B: KernelBackend>(device: &B::Device) {
    B::memory_cleanup(device);
    wait::<B>(device);
}

/// Makes a video per prompt with the model as it is.
pub(super) struct Sampler {
    config: SampleConfig,
    checkpoint: Checkpoint,
    schedule: Schedule,
    /// Tiles in which videos are decoded, where pictures are not taken as a whole.
    pub(super) tiling: Option<Tiling>,
}

impl Sampler {
    /// The sampler of a configuration, if it asks for samples.
    pub(super) fn new(config: &TrainConfig) -> Result<Option<Self>, TrainError> {
        let Some(samples) = config.samples.clone() else {
            return Ok(None);
        };
        let checkpoint = Checkpoint::open(config.checkpoint()?)?;
        let scheduler: FlowMatchScheduler = checkpoint.scheduler()?;
        Ok(Some(Self {
            schedule: scheduler.schedule(samples.steps, ScheduleMode::Plain)?,
            config: samples,
            checkpoint,
            tiling: None,
        }))
    }

    pub(super) fn run<B: TrainBackend>(
        &self,
        model: &LongCatTransformer<B>,
        texts: &dyn Fn(&str) -> EncodedText,
        device: &B::Device,
        folder: &Path,
        interrupt: &AtomicBool,
    ) -> Result<(), TrainError> {
        let model = model.valid();
        let devices = [device.clone()];
        // What steps of training hold in pools would lie beside what these take.
        give_back::<B::InnerBackend>(device);
        let denoise = || {
            let mut clips = Vec::new();
            for (i, prompt) in self.config.prompts.iter().enumerate() {
                let latents = self.denoise(&model, texts, prompt, i as u64, device, interrupt)?;
                clips.push(latents);
            }
            Ok::<_, TrainError>(clips)
        };
        let clips = guard::<B::InnerBackend, _, _>(&devices, Stage::Sampling, denoise)?;
        give_back::<B::InnerBackend>(device);
        let vae = self
            .checkpoint
            .load_vae::<B::InnerBackend>(DType::F32, device)?;
        let options = VaeOptions {
            tiling: self.tiling,
            ..VaeOptions::default()
        };
        for (i, latents) in clips.into_iter().enumerate() {
            let decode = || {
                let mut going_on = |_| match stop(interrupt) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                };
                match vae.decode_with(latents, &options, &mut going_on) {
                    Err(VaeError::Cancelled) => Err(TrainError::Interrupted),
                    Err(error) => Err(VideoError::from(error).into()),
                    Ok(pixels) => Ok(PixelFrames::from_tensor(pixels)?),
                }
            };
            for frames in guard::<B::InnerBackend, _, _>(&devices, Stage::Sampling, decode)? {
                let path = folder.join(format!("{i:02}.{}", self.config.format));
                frames.write_video(path, FPS)?;
            }
        }
        drop(vae);
        give_back::<B::InnerBackend>(device);
        Ok(())
    }

    fn denoise<B: KernelBackend>(
        &self,
        model: &LongCatTransformer<B>,
        texts: &dyn Fn(&str) -> EncodedText,
        prompt: &str,
        number: u64,
        device: &B::Device,
        interrupt: &AtomicBool,
    ) -> Result<Tensor<B, 5>, TrainError> {
        let channels = model.config().in_channels;
        let vae = self.checkpoint.vae_config()?;
        let shape = [
            1,
            channels,
            (self.config.frames - 1) / vae.scale_factor_temporal + 1,
            self.config.size.height / vae.scale_factor_spatial,
            self.config.size.width / vae.scale_factor_spatial,
        ];
        let text = |prompt: &str| -> Result<TextCondition<B>, TrainError> {
            let (embeds, mask) = texts(prompt)?;
            let embeds = Tensor::<B, 2>::from_data(embeds, (device, DType::F32));
            Ok(TextCondition {
                embeds: embeds.unsqueeze_dim(0),
                mask: Some(vec![mask]),
            })
        };
        let condition = text(prompt)?;
        let negative = match self.config.guidance {
            Some(scale) => Some((text(&self.config.negative_prompt)?, scale)),
            None => None,
        };
        let mut noise = SeededNoise::new(self.config.seed.wrapping_add(number));
        let data = TensorData::new(noise.draw(NoisePurpose::Initial, shape), shape);
        let mut latents = Tensor::<B, 5>::from_data(data, (device, DType::F32));
        for step in 0..self.schedule.len() {
            stop(interrupt)?;
            let timestep = self.schedule.timesteps[step];
            let timesteps = Tensor::full([1, shape[2]], timestep, (device, DType::F32));
            let predict = |text: &TextCondition<B>| {
                model.forward(latents.clone(), timesteps.clone(), text, 0)
            };
            let predicted = predict(&condition)?;
            let predicted = match &negative {
                Some((negative, scale)) => cfg_zero(predicted, predict(negative)?, *scale),
                None => predicted,
            };
            // The model predicts x0 − noise; Euler steps go along noise − x0.
            latents = self.schedule.step(latents, predicted.neg(), step);
        }
        Ok(latents)
    }
}
