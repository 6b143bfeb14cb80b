//! Timings of the networks with random weights, made on the device.

mod dit;
mod train;

pub use dit::Dit;
pub use train::Train;

use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Distribution, Tensor};
use clap::{Args, ValueEnum};
use longcat_dit::{DitConfig, LongCatTransformer, TextCondition};
use longcat_kernels::{BsaParams, EmptySelection, KernelBackend};
use longcat_video::DeviceSpec;

/// Sizes of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Hidden 512, 8 heads, 8×32×32 latents, 2,048 tokens, fp32.
    Small,
    /// The released width; 24×60×104 latents (480p, 93 frames), 37,440 tokens.
    Generate,
    /// The released width; 9×60×104 latents (480p, 33 frames), 14,040 tokens.
    Clip,
    /// The released width; 48×88×160 latents, 168,960 tokens, block-sparse.
    Refine,
}

/// What all measurements take.
#[derive(Debug, Args)]
pub struct Common {
    /// Sizes.
    #[arg(long, value_enum, default_value = "small")]
    preset: Preset,
    /// Number of blocks.
    #[arg(long, default_value_t = 4)]
    depth: usize,
    /// Runs after the first, which is reported by itself; their median is reported.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Where to run: cpu, wgpu[:i] or cuda[:i].
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// On cuda, multiply with Burn's own kernels instead of cuBLASLt.
    #[arg(long)]
    no_cublas: bool,
}

impl Common {
    fn check(&self) -> Result<()> {
        if self.depth == 0 || self.repeats == 0 {
            bail!("--depth and --repeats must be positive");
        }
        if self.preset != Preset::Small && self.device.default_dtype() == DType::F32 {
            bail!("the released width is for cuda");
        }
        longcat_video::set_cublas_enabled(!self.no_cublas);
        Ok(())
    }

    fn config(&self) -> DitConfig {
        let released = DitConfig {
            depth: self.depth,
            // The official `dit/config.json`.
            bsa_params: Some(BsaParams {
                sparsity: Some(0.9375),
                cdf_threshold: None,
                chunk_3d_shape_q: [4; 3],
                chunk_3d_shape_k: [4; 3],
                empty_selection: EmptySelection::default(),
            }),
            enable_bsa: self.preset == Preset::Refine,
            ..DitConfig::default()
        };
        match self.preset {
            Preset::Small => DitConfig {
                hidden_size: 512,
                num_heads: 8,
                caption_channels: 512,
                adaln_tembed_dim: 128,
                ..released
            },
            _ => released,
        }
    }

    /// Latent frames, height and width.
    fn latent_grid(&self) -> [usize; 3] {
        match self.preset {
            Preset::Small => [8, 32, 32],
            Preset::Generate => [24, 60, 104],
            Preset::Clip => [9, 60, 104],
            Preset::Refine => [48, 88, 160],
        }
    }

    fn tokens(&self) -> usize {
        self.latent_grid().iter().product::<usize>() / 4
    }

    fn model<B: KernelBackend>(&self, device: &B::Device) -> LongCatTransformer<B> {
        LongCatTransformer::new(&self.config(), device).cast(self.device.default_dtype())
    }

    fn text<B: Backend>(&self, device: &B::Device) -> TextCondition<B> {
        let shape = [1, 256, self.config().caption_channels];
        TextCondition {
            embeds: Tensor::random(shape, Distribution::Normal(0.0, 1.0), device),
            mask: None,
        }
    }

    fn latents<B: Backend>(&self, device: &B::Device) -> Tensor<B, 5> {
        let [t, h, w] = self.latent_grid();
        let shape = [1, self.config().in_channels, t, h, w];
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    /// Milliseconds of the first run, and the median of the others.
    fn time<B: Backend>(
        &self,
        device: &B::Device,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<(f64, f64)> {
        let mut times = Vec::new();
        for _ in 0..=self.repeats {
            let started = Instant::now();
            run()?;
            B::sync(device)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let first = times.remove(0);
        times.sort_by(f64::total_cmp);
        Ok((first, times[times.len() / 2]))
    }

    /// Memory that is taken on the device now, where the platform tells; pools keep what they once
    /// had, so after a run this is its peak.
    fn memory_taken(&self) -> Option<u64> {
        match self.device {
            #[cfg(feature = "cuda")]
            DeviceSpec::Cuda(index) => longcat_kernels::cuda_memory(index).map(|m| m.taken),
            _ => None,
        }
    }
}
