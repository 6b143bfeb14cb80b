use anyhow::Result;
use burn::tensor::{DType, Tensor};
use clap::Args;
use longcat_kernels::KernelBackend;
use longcat_train::{LoraConfig, attach_adapter};
use longcat_video::{DeviceTask, on_device};
use serde_json::json;

use super::Common;

/// `cargo xtask bench dit`.
#[derive(Debug, Args)]
pub struct Dit {
    #[command(flatten)]
    common: Common,
    /// Rank of an adapter on the seven kinds of layers of `cfg_step_lora`; 0 for none.
    #[arg(long, default_value_t = 0)]
    lora_rank: usize,
}

impl Dit {
    /// Measures a forward pass of the transformer.
    pub fn run(self) -> Result<()> {
        self.common.check()?;
        on_device(self.common.device, self)?
    }
}

impl DeviceTask for Dit {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let common = &self.common;
        let mut model = common.model::<B>(&device);
        if self.lora_rank > 0 {
            let config = LoraConfig {
                rank: self.lora_rank,
                ..LoraConfig::default()
            };
            attach_adapter(&mut model, &config, common.device.default_dtype(), 0)?;
        }
        let [frames, _, _] = common.latent_grid();
        let latents = common.latents::<B>(&device);
        let timesteps = Tensor::full([1, frames], 500.0, (&device, DType::F32));
        let text = common.text::<B>(&device);
        let (first, median) = common.time::<B>(&device, || {
            model.forward(latents.clone(), timesteps.clone(), &text, 0)?;
            Ok(())
        })?;
        let result = json!({
            "network": "dit", "device": common.device.to_string(), "tokens": common.tokens(),
            "depth": common.depth, "lora_rank": self.lora_rank, "first_milliseconds": first,
            "milliseconds": median, "milliseconds_per_block": median / common.depth as f64,
            "memory_bytes": common.memory_taken(),
        });
        println!("{result}");
        Ok(())
    }
}
