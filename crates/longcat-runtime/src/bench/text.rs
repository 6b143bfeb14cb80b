use anyhow::Result;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use clap::Args;
use longcat_kernels::KernelBackend;
use longcat_runtime::{DeviceTask, on_device};
use longcat_text::{Umt5Config, Umt5Encoder};
use longcat_weights::cast_module;
use serde_json::json;

use super::timing::Timing;

/// `cargo xtask bench text`.
#[derive(Debug, Args)]
pub struct Text {
    /// Padded length of the prompt.
    #[arg(long, default_value_t = 512)]
    tokens: usize,
    /// Number of blocks.
    #[arg(long, default_value_t = 24)]
    depth: usize,
    #[command(flatten)]
    timing: Timing,
}

impl Text {
    /// Measures encoding of one prompt by an encoder of the released width (UMT5-XXL).
    pub fn run(self) -> Result<()> {
        self.timing.check()?;
        on_device(self.timing.device, self)?
    }
}

impl DeviceTask for Text {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let config = Umt5Config {
            vocab_size: 256_384,
            d_model: 4096,
            d_kv: 64,
            d_ff: 10_240,
            num_layers: self.depth,
            num_heads: 64,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
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
        println!("{result}");
        Ok(())
    }
}
