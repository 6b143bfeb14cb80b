//! An optimiser step of an adapter.

use burn::backend::Autodiff;
use burn::module::{AutodiffModule, Module};
use burn::tensor::{DType, Tensor};
use longcat_dit::{LongCatTransformer, streamed_blocks};
use longcat_kernels::KernelBackend;
use longcat_train::{Batch, LoraConfig, LoraOptimizer, OptimizerConfig, TrainStep, attach_adapter};
use serde_json::json;

use super::network::Network;
use super::timing::sync;
use super::{Bench, BenchError, Report, measure};

/// An optimiser step of an adapter.
#[derive(Debug, Clone)]
pub struct Train {
    /// The transformer.
    pub network: Network,
    /// Rank of the adapter on the seven kinds of layers of `cfg_step_lora`.
    pub lora_rank: usize,
    /// One graph over all blocks instead of checkpoints.
    pub no_checkpointing: bool,
    /// Blocks that stay on the device; the others pass through it. All where `None`.
    pub resident_blocks: Option<usize>,
}

impl Train {
    /// Measures an optimiser step of an adapter.
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.network.check()?;
        measure(self.network.timing.device, self, report)
    }
}

impl Bench for Train {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let network = &self.network;
        let mut model = network.model::<B>(&device)?;
        if let Some(resident) = self.resident_blocks {
            model.move_to_host(&streamed_blocks(network.depth, resident))?;
            sync::<B>(&device)?;
            B::memory_cleanup(&device);
        }
        let model = LongCatTransformer::<Autodiff<B>>::from_inner(model);
        let mut model = Some(model.no_grad());
        let config = LoraConfig::of_rank(self.lora_rank);
        if let Some(model) = &mut model {
            attach_adapter(model, &config, DType::F32, 0)?;
        }
        let batch = Batch::<B> {
            x0: network.latents(&device),
            noise: network.latents(&device),
            sigma: Tensor::full([1], 0.5, (&device, DType::F32)),
            text: network.text(&device, 1),
            num_cond: 0,
        };
        let step = TrainStep {
            checkpointed: !self.no_checkpointing,
        };
        let mut optimizer = LoraOptimizer::<B>::new(&OptimizerConfig::default());
        let mut loss = None;
        let times = network.timing.time::<B>(&device, || {
            if let Some(current) = model.take() {
                let output = step.run(&current, &batch)?;
                loss = Some(output.loss);
                let next = optimizer.step::<Autodiff<B>, _>(current, output.gradients, 1e-4);
                model = Some(next);
            }
            Ok(())
        })?;
        let loss = loss
            .map(|loss| loss.into_scalar())
            .map(|loss| format!("{loss:?}"));
        let result = json!({
            "network": "train", "device": network.timing.device.to_string(), "tokens": network.tokens(),
            "depth": network.depth, "resident_blocks": self.resident_blocks,
            "lora_rank": self.lora_rank, "loss": loss,
            "checkpointing": step.checkpointed, "first_milliseconds": times.first,
            "milliseconds": times.median, "memory_bytes": network.timing.memory_taken(),
        });
        report(result);
        Ok(())
    }
}
