//! Decoding and encoding of a clip.

use std::ops::ControlFlow;

use burn::tensor::{Distribution, Tensor};
use longcat_kernels::KernelBackend;
use longcat_vae::{Tiling, VaeOptions, WanVae, WanVaeConfig};
use serde_json::json;

use super::timing::Timing;
use super::{Bench, BenchError, Report, measure};

/// Decoding and encoding of a clip.
#[derive(Debug, Clone)]
pub struct Vae {
    /// Height and width of the pictures.
    pub size: [usize; 2],
    /// Frames of the clip, 4n + 1.
    pub frames: usize,
    /// Channels at full resolution: those of the release.
    pub width: usize,
    /// Latent frames that pass through the network at once.
    pub chunk: usize,
    /// Works on overlapping tiles.
    pub tiled: bool,
    /// How often, and where.
    pub timing: Timing,
}

impl Vae {
    /// Measures decoding and encoding of one clip.
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.timing.check()?;
        measure(self.timing.device, self, report)
    }
}

impl Bench for Vae {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
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
        let [height, width] = self.size;
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
            report(result);
        }
        Ok(())
    }
}
