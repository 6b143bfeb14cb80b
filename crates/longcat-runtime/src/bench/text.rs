//! Encoding a prompt.

use burn::tensor::{Bool, Int, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_text::{Umt5Config, Umt5Encoder};
use longcat_weights::cast_module;
use serde_json::json;

use super::timing::Timing;
use super::{Bench, BenchError, Report, measure};

/// Encoding a prompt.
#[derive(Debug, Clone)]
pub struct Text {
    /// Padded length of the prompt.
    pub tokens: usize,
    /// Number of blocks.
    pub depth: usize,
    /// How often, and where.
    pub timing: Timing,
}

impl Text {
    /// Measures encoding of one prompt by an encoder of the released width (UMT5-XXL).
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.timing.check()?;
        measure(self.timing.device, self, report)
    }
}

impl Bench for Text {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let config = Umt5Config {
            num_layers: self.depth,
            ..Umt5Config::default()
        };
        let encoder = Umt5Encoder::<B>::new(&config, &device);
        let encoder = cast_module(encoder, self.timing.dtype(), None);
        let tokens = self.tokens;
        let ids: Vec<i32> = (0..tokens as i32).map(|i| (i * 997) % 256_000).collect();
        let mask: Vec<bool> = (0..tokens).map(|i| i < tokens / 4).collect();
        let ids = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, [1, tokens]), &device);
        let mask = Tensor::<B, 2, Bool>::from_data(TensorData::new(mask, [1, tokens]), &device);
        let times = self.timing.time::<B>(&device, || {
            encoder.forward(ids.clone(), mask.clone());
            Ok(())
        })?;
        let result = json!({
            "operation": "text encode", "device": self.timing.device.to_string(),
            "tokens": tokens, "depth": self.depth,
            "first_milliseconds": times.first, "milliseconds": times.median,
            "memory_bytes": self.timing.memory_taken(),
        });
        report(result);
        Ok(())
    }
}
