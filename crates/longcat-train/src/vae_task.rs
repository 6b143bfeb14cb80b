//! Training the VAE of a small model.

use std::path::Path;

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_vae::{Posterior, WanVae, internal_names};
use longcat_video::{PixelFrames, VideoError};
use longcat_weights::{collect_module, write_atomic, write_safetensors};

use crate::config::TrainConfig;
use crate::data::FittedClip;
use crate::parameters::{Gradients, collect_gradients, read};
use crate::sampling::{Order, Purpose, normals, stream};
use crate::trainer::{Position, Task};
use crate::{TrainBackend, TrainError};

/// A clip on the host: pixels `[3, F, H, W]` in [-1, 1].
struct Pixels {
    values: Vec<f32>,
    shape: [usize; 4],
}

/// The VAE on clips in host memory: mean absolute error of a reconstruction from a sample of the
/// posterior, plus `vae.kl_weight` times the divergence from a standard normal (mean per latent
/// value).
pub struct VaeTask<B: TrainBackend> {
    config: TrainConfig,
    clips: Vec<Pixels>,
    order: Order,
    device: B::Device,
}

impl<B: TrainBackend> VaeTask<B> {
    pub(crate) fn new(
        config: &TrainConfig,
        clips: &[(FittedClip, usize)],
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let mut pixels = Vec::with_capacity(clips.len());
        let mut items = Vec::with_capacity(clips.len());
        for (clip, repeats) in clips {
            let frames = PixelFrames::from_images(&clip.frames)?;
            let tensor = frames.to_tensor::<B::InnerBackend>(device);
            let [_, channels, f, h, w] = tensor.dims();
            let shape = [channels, f, h, w];
            let length: usize = shape.iter().product();
            let values = read(tensor.reshape([length]), "pixels")?;
            items.push((shape, repeats * config.data.repeats));
            pixels.push(Pixels { values, shape });
        }
        if items.iter().all(|(_, repeats)| *repeats == 0) {
            return Err(TrainError::Config {
                path: config.output.clone(),
                key: "data.path".into(),
                reason: format!("no clip in {}", config.data.path.display()),
            });
        }
        Ok(Self {
            order: Order::new(config.seed, config.train.batch, &items),
            config: config.clone(),
            clips: pixels,
            device: device.clone(),
        })
    }

    fn pixels<A: Backend<Device = B::Device>>(&self, members: &[usize]) -> Tensor<A, 5> {
        let [c, f, h, w] = self.clips[members[0]].shape;
        let values = members
            .iter()
            .flat_map(|m| self.clips[*m].values.iter().copied());
        let data = TensorData::new(values.collect::<Vec<f32>>(), [members.len(), c, f, h, w]);
        Tensor::from_data(data, (&self.device, DType::F32))
    }

    fn loss<A: longcat_kernels::KernelBackend<Device = B::Device>>(
        &self,
        vae: &WanVae<A>,
        members: &[usize],
        purpose: Purpose,
        index: u64,
    ) -> Result<Tensor<A, 1>, TrainError> {
        let pixels = self.pixels::<A>(members);
        let posterior = vae.encode(pixels.clone()).map_err(VideoError::from)?;
        let shape = posterior.mean.dims();
        let mut rng = stream(self.config.seed, purpose, index);
        let noise = normals(&mut rng, shape.iter().product());
        let noise = Tensor::from_data(TensorData::new(noise, shape), (&self.device, DType::F32));
        let divergence = divergence(&posterior);
        let latents = vae.normalize(posterior.sample(noise));
        let decoded = vae.decode(latents).map_err(VideoError::from)?;
        let frames = decoded.dims()[2];
        let error = (decoded - pixels.narrow(2, 0, frames)).abs().mean();
        Ok(error + divergence * self.config.vae.kl_weight)
    }
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
        let loss = self.loss(model, &members, Purpose::Sample, index)?;
        let mut gradients = Gradients::default();
        collect_gradients::<B, _>(model, "", &loss.backward(), &mut gradients);
        Ok((f64::from(read(loss.inner(), "the loss")?[0]), gradients))
    }

    /// The training loss over all clips, under the noise level 0.
    fn validate(&self, model: &Self::Model) -> Result<Vec<(f64, f64)>, TrainError> {
        let model = model.valid();
        let mut sum = 0.0;
        for number in 0..self.clips.len() {
            let loss = self.loss(&model, &[number], Purpose::Validation, number as u64)?;
            sum += f64::from(read(loss, "the validation loss")?[0]);
        }
        Ok(vec![(0.0, sum / self.clips.len() as f64)])
    }

    /// A `vae/` folder whose latent statistics are those of the training clips.
    fn export(
        &self,
        model: &Self::Model,
        folder: &Path,
        name: &str,
        _position: &Position,
    ) -> Result<(), TrainError> {
        let folder = folder.join(name.replace("adapter", "vae"));
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
        let model = model.valid();
        let mut config = model.config().clone();
        let channels = config.z_dim;
        let (mut sums, mut squares, mut count) = (vec![0.0; channels], vec![0.0; channels], 0.0);
        for number in 0..self.clips.len() {
            let posterior = model
                .encode(self.pixels(&[number]))
                .map_err(VideoError::from)?;
            let dims = posterior.mean.dims();
            let per_channel = dims[2] * dims[3] * dims[4];
            let length = channels * per_channel;
            let values = read(posterior.mean.reshape([length]), "latents")?;
            for (c, values) in values.chunks(per_channel).enumerate() {
                sums[c] += values.iter().map(|v| f64::from(*v)).sum::<f64>();
                squares[c] += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            }
            count += per_channel as f64;
        }
        let means = sums.iter().map(|sum| sum / count);
        config.latents_mean = means.clone().map(|m| m as f32).collect();
        config.latents_std = means
            .zip(&squares)
            .map(|(mean, square)| (square / count - mean * mean).max(1e-12).sqrt() as f32)
            .collect();
        let path = folder.join("config.json");
        write_atomic(&path, config.to_json().to_string().as_bytes())?;
        let tensors = collect_module(&model, &internal_names())?;
        let file = folder.join("diffusion_pytorch_model.safetensors");
        Ok(write_safetensors(&file, &tensors, &Default::default())?)
    }

    /// The reconstruction of every clip, as PNG of its first frame.
    fn sample(&self, model: &Self::Model, folder: &Path) -> Result<(), TrainError> {
        let model = model.valid();
        for number in 0..self.clips.len() {
            let posterior = model
                .encode(self.pixels(&[number]))
                .map_err(VideoError::from)?;
            let latents = model.normalize(posterior.mean);
            let decoded = model.decode(latents).map_err(VideoError::from)?;
            for frames in PixelFrames::from_tensor(decoded)? {
                let path = folder.join(format!("{number:02}.png"));
                if let Some(image) = frames.images().next() {
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
