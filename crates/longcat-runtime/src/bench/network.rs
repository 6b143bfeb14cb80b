//! Transformers with random weights.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Distribution, Tensor};
use longcat_dit::{DitConfig, LongCatTransformer, TextCondition};
use longcat_kernels::{BsaParams, EmptySelection, KernelBackend};

use super::BenchError;
use super::timing::{Timing, sync};

/// Sizes of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Draws the weights of a module that were not drawn yet, which otherwise are where they are first used: replicas
/// that begin with one seed are to be the same.
struct Draw;

impl<B: Backend> ModuleVisitor<B> for Draw {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        drop(param.val());
    }
}

/// A transformer to measure.
#[derive(Debug, Clone)]
pub struct Network {
    /// Sizes.
    pub preset: Preset,
    /// Number of blocks.
    pub depth: usize,
    /// How often, and where.
    pub timing: Timing,
}

impl Network {
    pub(super) fn check(&self) -> Result<(), BenchError> {
        self.timing.check()?;
        if self.depth == 0 {
            return Err(BenchError::Setting("--depth must be positive"));
        }
        if self.preset != Preset::Small && self.timing.dtype() == DType::F32 {
            return Err(BenchError::Setting("the released width is for GPUs"));
        }
        Ok(())
    }

    pub(super) fn config(&self) -> DitConfig {
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
    pub(super) fn latent_grid(&self) -> [usize; 3] {
        match self.preset {
            Preset::Small => [8, 32, 32],
            Preset::Generate => [24, 60, 104],
            Preset::Clip => [9, 60, 104],
            Preset::Refine => [48, 88, 160],
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.latent_grid().iter().product::<usize>() / 4
    }

    pub(super) fn model<B: KernelBackend>(
        &self,
        device: &B::Device,
    ) -> Result<LongCatTransformer<B>, BenchError> {
        let model = LongCatTransformer::new(&self.config(), device).cast(self.timing.dtype());
        model.visit(&mut Draw);
        // Random weights are drawn in f32, which a checkpoint is never loaded in. Only work that is
        // done frees the last of them.
        sync::<B>(device)?;
        B::memory_cleanup(device);
        Ok(model)
    }

    pub(super) fn text<B: Backend>(&self, device: &B::Device, samples: usize) -> TextCondition<B> {
        let shape = [samples, 256, self.config().caption_channels];
        TextCondition {
            embeds: Tensor::random(shape, Distribution::Normal(0.0, 1.0), device),
            mask: None,
        }
    }

    pub(super) fn latents<B: Backend>(&self, device: &B::Device) -> Tensor<B, 5> {
        let [t, h, w] = self.latent_grid();
        let shape = [1, self.config().in_channels, t, h, w];
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }
}
