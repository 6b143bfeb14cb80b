use std::ops::ControlFlow;

use anyhow::Result;
use burn::tensor::{Distribution, Tensor};
use clap::Args;
use longcat_kernels::KernelBackend;
use longcat_runtime::{DeviceTask, on_device};
use longcat_vae::{Tiling, VaeOptions, WanVae, WanVaeConfig};
use serde_json::json;

use super::timing::Timing;

/// `cargo xtask bench vae`.
#[derive(Debug, Args)]
pub struct Vae {
    /// Height and width of the pictures.
    #[arg(long, value_delimiter = ',', default_values_t = [480, 832])]
    size: Vec<usize>,
    /// Frames of the clip, 4n + 1.
    #[arg(long, default_value_t = 93)]
    frames: usize,
    /// Channels at full resolution: those of the release.
    #[arg(long, default_value_t = 96)]
    width: usize,
    /// Latent frames that pass through the network at once.
    #[arg(long, default_value_t = 1)]
    chunk: usize,
    /// Works on overlapping tiles.
    #[arg(long)]
    tiled: bool,
    #[command(flatten)]
    timing: Timing,
}

impl Vae {
    /// Measures decoding and encoding of one clip.
    pub fn run(self) -> Result<()> {
        self.timing.check()?;
        on_device(self.timing.device, self)?
    }
}

impl DeviceTask for Vae {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let config = WanVaeConfig {
            base_dim: self.width,
            decoder_base_dim: self.width,
            ..WanVaeConfig::default()
        };
        let vae = WanVae::<B>::new(&config, &device).cast(self.timing.dtype());
        let options = VaeOptions {
            latent_frames_per_chunk: self.chunk,
            tiling: self.tiled.then(Tiling::default),
            ..VaeOptions::default()
        };
        let [height, width] = [self.size[0], self.size[1]];
        let latent_shape = [
            1,
            config.z_dim,
            config.latent_frames(self.frames),
            height / config.scale_factor_spatial,
            width / config.scale_factor_spatial,
        ];
        let normal = Distribution::Normal(0.0, 1.0);
        let latents = Tensor::<B, 5>::random(latent_shape, normal, &device);
        let clip = [1, 3, self.frames, height, width];
        let video = Tensor::<B, 5>::random(clip, Distribution::Uniform(-1.0, 1.0), &device);
        let mut go_on = |_| ControlFlow::Continue(());
        let decode = self.timing.time::<B>(&device, || {
            vae.decode_with(latents.clone(), &options, &mut go_on)?;
            Ok(())
        })?;
        let decode_memory = self.timing.memory_taken();
        let encode = self.timing.time::<B>(&device, || {
            vae.encode_with(video.clone(), &options, &mut go_on)?;
            Ok(())
        })?;
        for (operation, times, memory) in [
            ("vae decode", decode, decode_memory),
            ("vae encode", encode, self.timing.memory_taken()),
        ] {
            let result = json!({
                "operation": operation, "device": self.timing.device.to_string(),
                "width": width, "height": height, "frames": self.frames,
                "latent_frames_per_chunk": self.chunk, "tiled": self.tiled,
                "first_milliseconds": times.first, "milliseconds": times.median,
                "memory_bytes": memory,
            });
            println!("{result}");
        }
        Ok(())
    }
}
