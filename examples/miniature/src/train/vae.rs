//! Training the VAE of a small model.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_train::{
    BatchOrder, Gradients, Position, Purpose, Task, TrainBackend, TrainConfig, TrainError, Weights,
    collect_gradients, normals, read_values, stream, update,
};
use longcat_vae::{Posterior, VaeOptions, WanVae, WanVaeConfig, internal_names};
use longcat_video::{Latents, PixelFrames, VideoError, fit_latent_colours};
use longcat_weights::{collect_module, upload, write_atomic, write_safetensors};

use super::config::VaeConfig;

/// Logarithm of the posterior's variance that training from scratch begins with.
const FIRST_LOGVAR: f32 = -10.0;
/// Clips that statistics and colours of latents are taken from.
const COUNTED: usize = 128;
/// Clips that samples are made of.
const SHOWN: usize = 8;

/// The VAE on clips in host memory: mean absolute error of a reconstruction from a sample of the
/// posterior, plus `mse_weight` times the mean squared one, plus `kl_weight` times the
/// divergence from a standard normal (mean per latent value).
pub(super) struct VaeTask<B: TrainBackend> {
    config: VaeConfig,
    seed: u64,
    /// Clips per step.
    batch: usize,
    clips: Vec<PixelFrames>,
    /// Held-out clips; the first of the training clips where there are none.
    validation: Vec<PixelFrames>,
    order: BatchOrder,
    device: B::Device,
}

impl<B: TrainBackend> VaeTask<B> {
    /// The task of a configuration on clips that come as often as is said beside them.
    pub(super) fn new(
        run: &TrainConfig,
        config: &VaeConfig,
        training: Vec<(PixelFrames, usize)>,
        validation: Option<Vec<(PixelFrames, usize)>>,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let items: Vec<_> = training
            .iter()
            .map(|(clip, repeats)| (shape(clip), *repeats))
            .collect();
        let order = BatchOrder::new(run.seed, run.train.batch, &items, run.data.repeats)?;
        let clips: Vec<PixelFrames> = training.into_iter().map(|(clip, _)| clip).collect();
        let validation = match validation {
            Some(held_out) => held_out.into_iter().map(|(clip, _)| clip).collect(),
            None => clips.iter().take(COUNTED).cloned().collect(),
        };
        Ok(Self {
            order,
            seed: run.seed,
            batch: run.train.batch,
            config: config.clone(),
            clips,
            validation,
            device: device.clone(),
        })
    }

    /// Consecutive clips of one shape, as many as a step takes.
    fn batches<'a>(&self, clips: &'a [PixelFrames]) -> impl Iterator<Item = &'a [PixelFrames]> {
        let batch = self.batch;
        clips
            .chunk_by(|a, b| shape(a) == shape(b))
            .flat_map(move |equal| equal.chunks(batch))
    }

    fn pixels<'a, A: Backend<Device = B::Device>>(
        &self,
        clips: impl IntoIterator<Item = &'a PixelFrames>,
    ) -> Tensor<A, 5> {
        PixelFrames::batch_to_tensor(clips, &self.device)
    }

    fn encode<A: KernelBackend<Device = B::Device>>(
        &self,
        vae: &WanVae<A>,
        pixels: Tensor<A, 5>,
    ) -> Result<Posterior<A>, TrainError> {
        let posterior = vae.encode_with(pixels, &whole(), &mut |_| ControlFlow::Continue(()));
        Ok(posterior.map_err(VideoError::from)?)
    }

    fn decode<A: KernelBackend<Device = B::Device>>(
        &self,
        vae: &WanVae<A>,
        latents: Tensor<A, 5>,
    ) -> Result<Tensor<A, 5>, TrainError> {
        let pixels = vae.decode_with(latents, &whole(), &mut |_| ControlFlow::Continue(()));
        Ok(pixels.map_err(VideoError::from)?)
    }

    fn loss<A: KernelBackend<Device = B::Device>>(
        &self,
        vae: &WanVae<A>,
        pixels: Tensor<A, 5>,
        purpose: Purpose,
        index: u64,
    ) -> Result<Tensor<A, 1>, TrainError> {
        let posterior = self.encode(vae, pixels.clone())?;
        let shape = posterior.mean.dims();
        let mut rng = stream(self.seed, purpose, index);
        let noise = normals(&mut rng, shape.iter().product());
        let noise = upload(TensorData::new(noise, shape), &self.device);
        let divergence = divergence(&posterior);
        let latents = vae.normalize(posterior.sample(noise));
        let decoded = self.decode(vae, latents)?;
        let frames = decoded.dims()[2];
        let error = decoded - pixels.narrow(2, 0, frames);
        let mut loss = error.clone().abs().mean() + divergence * self.config.kl_weight;
        if self.config.mse_weight > 0.0 {
            loss = loss + error.square().mean() * self.config.mse_weight;
        }
        Ok(loss)
    }

    /// The config of a VAE with means and deviations of the latents of the first training clips.
    fn with_latent_statistics<A: KernelBackend<Device = B::Device>>(
        &self,
        model: &WanVae<A>,
    ) -> Result<WanVaeConfig, TrainError> {
        let mut config = model.config().clone();
        let channels = config.z_dim;
        let (mut sums, mut squares, mut count) = (vec![0.0; channels], vec![0.0; channels], 0.0);
        let counted = &self.clips[..self.clips.len().min(COUNTED)];
        for clips in self.batches(counted) {
            let posterior = self.encode(model, self.pixels(clips))?;
            let [count_here, _, t, h, w] = posterior.mean.dims();
            let length = count_here * channels * t * h * w;
            let values = read_values(posterior.mean.reshape([length]), "latents")?;
            for (i, values) in values.chunks(t * h * w).enumerate() {
                let c = i % channels;
                sums[c] += values.iter().map(|v| f64::from(*v)).sum::<f64>();
                squares[c] += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            }
            count += (count_here * t * h * w) as f64;
        }
        let means = sums.iter().map(|sum| sum / count);
        config.latents_mean = means.clone().map(|m| m as f32).collect();
        config.latents_std = means
            .zip(&squares)
            .map(|(mean, square)| (square / count - mean * mean).max(1e-12).sqrt() as f32)
            .collect();
        Ok(config)
    }

    /// The config with colours for the latents of the first training clips, normalised as it says.
    fn with_colours<A: KernelBackend<Device = B::Device>>(
        &self,
        model: &WanVae<A>,
        mut config: WanVaeConfig,
    ) -> Result<WanVaeConfig, TrainError> {
        let statistic = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [1, values.len(), 1, 1, 1]);
            upload::<A, 5>(data, &self.device)
        };
        let (means, deviations) = (
            statistic(&config.latents_mean),
            statistic(&config.latents_std),
        );
        let counted = &self.clips[..self.clips.len().min(COUNTED)];
        let mut pairs = Vec::with_capacity(counted.len());
        for clips in self.batches(counted) {
            let latents = self.encode(model, self.pixels(clips))?.mean;
            let videos = self.decode(model, model.normalize(latents.clone()))?;
            let latents = (latents - means.clone()) / deviations.clone();
            for (i, video) in PixelFrames::from_tensor(videos)?.into_iter().enumerate() {
                let latents = Latents::from_tensor(latents.clone().narrow(0, i, 1))?;
                pairs.push((latents, video));
            }
        }
        config.colours = fit_latent_colours(&pairs);
        Ok(config)
    }
}

/// A VAE to train from scratch, in which what goes in reaches what comes out from the first step on:
/// weights of variance 1/fan-in (three times PyTorch's, which is what is drawn) keep the size of
/// signals, biases are zero, and the posterior is narrow. Without that, training stands still at the
/// mean colour for its first hundreds of steps.
pub(super) fn fresh_vae<B: KernelBackend>(
    config: &WanVaeConfig,
    device: &B::Device,
) -> WanVae<Autodiff<B>> {
    let z = config.z_dim;
    let model = WanVae::<Autodiff<B>>::new(config, device);
    update::<Autodiff<B>, _>(model, |path, values| match path {
        "quant_conv.bias" => {
            let bias = (0..2 * z).map(|i| if i < z { 0.0 } else { FIRST_LOGVAR });
            let bias = TensorData::new(bias.collect::<Vec<f32>>(), [2 * z]);
            Some(Tensor::from_data(bias, (device, DType::F32)))
        }
        _ if path.ends_with("bias") => Some(values.zeros_like()),
        _ if path.ends_with("weight") => Some(values * 3.0f64.sqrt()),
        _ => None,
    })
}

/// Small clips pass through the network whole.
fn whole() -> VaeOptions {
    VaeOptions {
        latent_frames_per_chunk: usize::MAX,
        clamp: false,
        ..VaeOptions::default()
    }
}

/// Frames, rows, columns.
fn shape(clip: &PixelFrames) -> [usize; 3] {
    let size = clip.size();
    [clip.len(), size.height, size.width]
}

/// Kullback-Leibler divergence from N(0, 1), mean per latent value.
fn divergence<B: Backend>(posterior: &Posterior<B>) -> Tensor<B, 1> {
    let (mean, logvar) = (posterior.mean.clone(), posterior.logvar.clone());
    (mean.square() + logvar.clone().exp() - logvar - 1.0).mean() * 0.5
}

impl<B: TrainBackend> Task<B> for VaeTask<B> {
    type Model = WanVae<B>;

    fn batches_per_epoch(&self) -> usize {
        self.order.batches_per_epoch()
    }

    fn gradients(
        &self,
        model: &Self::Model,
        index: u64,
    ) -> Result<(f64, Gradients<B::InnerBackend>), TrainError> {
        let members = self.order.batch(index);
        let pixels = self.pixels(members.iter().map(|m| &self.clips[*m]));
        let loss = self.loss(model, pixels, Purpose::Sample, index)?;
        let mut gradients = Gradients::default();
        collect_gradients::<B, _>(model, "", &loss.backward(), &mut gradients);
        Ok((
            f64::from(read_values(loss.inner(), "the loss")?[0]),
            gradients,
        ))
    }

    /// The training loss over the validation clips, under the noise level 0.
    fn validate(
        &self,
        model: &Self::Model,
        interrupt: &AtomicBool,
    ) -> Result<Vec<(f64, f64)>, TrainError> {
        let model = model.valid();
        let mut sum = 0.0;
        for (number, clips) in self.batches(&self.validation).enumerate() {
            if interrupt.load(Ordering::Relaxed) {
                return Err(TrainError::Interrupted);
            }
            let purpose = Purpose::Validation;
            let loss = self.loss(&model, self.pixels(clips), purpose, number as u64)?;
            let loss = f64::from(read_values(loss, "the validation loss")?[0]);
            sum += loss * clips.len() as f64;
        }
        Ok(vec![(0.0, sum / self.validation.len().max(1) as f64)])
    }

    /// A `vae/` folder whose latent statistics are those of the first training clips, or what they
    /// were if the encoder is, and whose colours are fitted to the decoder.
    fn export(
        &self,
        model: &Self::Model,
        folder: &Path,
        weights: Weights,
        _position: &Position,
    ) -> Result<(), TrainError> {
        let folder = folder.join(format!("vae{}", weights.suffix()));
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
        let model = model.valid();
        let config = match self.config.decoder_only {
            true => model.config().clone(),
            false => self.with_latent_statistics(&model)?,
        };
        let config = self.with_colours(&model, config)?;
        let path = folder.join("config.json");
        write_atomic(&path, config.to_json().to_string().as_bytes())?;
        let tensors = collect_module(&model, &internal_names())?;
        let file = folder.join("diffusion_pytorch_model.safetensors");
        Ok(write_safetensors(&file, &tensors, &Default::default())?)
    }

    /// Reconstructions of the first validation clips, as PNG of their last frames.
    fn sample(
        &self,
        model: &Self::Model,
        folder: &Path,
        _interrupt: &AtomicBool,
    ) -> Result<(), TrainError> {
        let model = model.valid();
        for (number, clip) in self.validation.iter().take(SHOWN).enumerate() {
            let posterior = self.encode(&model, self.pixels([clip]))?;
            let decoded = self.decode(&model, model.normalize(posterior.mean))?;
            for frames in PixelFrames::from_tensor(decoded)? {
                let path = folder.join(format!("{number:02}.png"));
                if let Some(image) = frames.images().last() {
                    image.save(&path).map_err(|e| TrainError::Data {
                        path,
                        reason: e.to_string(),
                    })?;
                }
            }
        }
        Ok(())
    }
}
