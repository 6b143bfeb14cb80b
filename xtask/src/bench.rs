//! Timings of the networks with random weights.

use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::{DType, Distribution, Tensor};
use clap::{Args, ValueEnum};
use longcat_dit::{DitConfig, LongCatTransformer, TextCondition};
use longcat_kernels::KernelBackend;
use longcat_video::{DeviceSpec, DeviceTask, on_device};
use serde_json::json;

/// Sizes of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Hidden 512, 8 heads, 2,048 tokens, fp32.
    Small,
    /// The released width; 24×60×104 latents, 37,440 tokens.
    Released,
}

/// `cargo xtask bench dit`.
#[derive(Debug, Args)]
pub struct Dit {
    /// Sizes.
    #[arg(long, value_enum, default_value = "small")]
    preset: Preset,
    /// Number of blocks.
    #[arg(long, default_value_t = 4)]
    depth: usize,
    /// Forward passes after one that is not counted; the median is reported.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Where to run: cpu, wgpu[:i] or cuda[:i].
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Dit {
    /// Measures a forward pass of the transformer.
    pub fn run(self) -> Result<()> {
        if self.depth == 0 || self.repeats == 0 {
            bail!("--depth and --repeats must be positive");
        }
        on_device(self.device, self)?
    }
}

impl DeviceTask for Dit {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let (config, [frames, height, width]) = match self.preset {
            Preset::Small => {
                let config = DitConfig {
                    hidden_size: 512,
                    num_heads: 8,
                    caption_channels: 512,
                    adaln_tembed_dim: 128,
                    depth: self.depth,
                    ..DitConfig::default()
                };
                (config, [8, 32, 32])
            }
            Preset::Released => {
                let config = DitConfig {
                    depth: self.depth,
                    ..DitConfig::default()
                };
                (config, [24, 60, 104])
            }
        };
        if self.preset == Preset::Released && self.device.default_dtype() == DType::F32 {
            bail!("the released width is for cuda");
        }
        let model = LongCatTransformer::<B>::new(&config, &device);
        let random = |shape: [usize; 5]| {
            Tensor::<B, 5>::random(shape, Distribution::Normal(0.0, 1.0), &device)
        };
        let latents = random([1, config.in_channels, frames, height, width]);
        let timesteps = Tensor::full([1, frames], 500.0, (&device, DType::F32));
        let text = TextCondition {
            embeds: random([1, 1, 1, 256, config.caption_channels]).reshape([1, 256, -1]),
            mask: None,
        };
        let mut times = Vec::new();
        for _ in 0..=self.repeats {
            let started = Instant::now();
            let out = model.forward(latents.clone(), timesteps.clone(), &text, 0)?;
            // One number read back waits for all of it.
            let _ = out.mean().into_data();
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let tokens = frames * height * width / 4;
        if self.json {
            let device = self.device.to_string();
            let result = json!({
                "network": "dit", "device": device, "tokens": tokens, "depth": self.depth,
                "hidden": config.hidden_size, "milliseconds": median,
            });
            println!("{result}");
        } else {
            println!("dit, {tokens} tokens, depth {}: {median:.1} ms", self.depth);
        }
        Ok(())
    }
}
