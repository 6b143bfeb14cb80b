use anyhow::Result;
use burn::tensor::{DType, Tensor};
use clap::Args;
use longcat_kernels::KernelBackend;
use longcat_train::{LoraConfig, attach_adapter};
use longcat_video::{DeviceTask, on_device};
use serde_json::json;

use super::network::Network;

/// `cargo xtask bench dit`.
#[derive(Debug, Args)]
pub struct Dit {
    #[command(flatten)]
    network: Network,
    /// Rank of an adapter on the seven kinds of layers of `cfg_step_lora`; 0 for none.
    #[arg(long, default_value_t = 0)]
    lora_rank: usize,
}

impl Dit {
    /// Measures a forward pass of the transformer.
    pub fn run(self) -> Result<()> {
        self.network.check()?;
        on_device(self.network.timing.device, self)?
    }
}

impl DeviceTask for Dit {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let network = &self.network;
        let mut model = network.model::<B>(&device);
        if self.lora_rank > 0 {
            let config = LoraConfig {
                rank: self.lora_rank,
                ..LoraConfig::default()
            };
            attach_adapter(&mut model, &config, network.timing.dtype(), 0)?;
        }
        let [frames, _, _] = network.latent_grid();
        let latents = network.latents::<B>(&device);
        let timesteps = Tensor::full([1, frames], 500.0, (&device, DType::F32));
        let text = network.text::<B>(&device);
        let times = network.timing.time::<B>(&device, || {
            model.forward(latents.clone(), timesteps.clone(), &text, 0)?;
            Ok(())
        })?;
        let result = json!({
            "network": "dit", "device": network.timing.device.to_string(), "tokens": network.tokens(),
            "depth": network.depth, "lora_rank": self.lora_rank, "first_milliseconds": times.first,
            "milliseconds": times.median, "milliseconds_per_block": times.median / network.depth as f64,
            "memory_bytes": network.timing.memory_taken(),
        });
        println!("{result}");
        Ok(())
    }
}
