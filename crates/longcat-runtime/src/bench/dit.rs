//! A forward pass of the transformer.

use burn::tensor::{DType, Tensor};
use longcat_dit::{LongCatTransformer, ParallelTransformer, forward_samples};
use longcat_kernels::KernelBackend;
use longcat_train::{LoraConfig, attach_adapter};
use serde_json::json;

use super::network::Network;
use super::{Bench, BenchError, Report, measure};
use crate::DeviceList;

/// A forward pass of the transformer.
#[derive(Debug, Clone)]
pub struct Dit {
    /// The transformer, on the first device of `share` if there is one.
    pub network: Network,
    /// Rank of an adapter on the seven kinds of layers of `cfg_step_lora`; 0 for none.
    pub lora_rank: usize,
    /// Devices that share the work .
    pub share: Option<DeviceList>,
    /// Two samples, as under guidance; devices that share take whole samples.
    pub guided: bool,
}

impl Dit {
    /// Measures a forward pass of the transformer.
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.network.check()?;
        measure(self.network.timing.device, self, report)
    }
}

impl Bench for Dit {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let network = &self.network;
        let mut devices = vec![device.clone()];
        if let Some(list) = &self.share {
            devices.extend(list.others::<B>(&device)?);
        }
        let replicas = devices.iter().map(|device| self.model::<B>(device));
        let replicas = replicas.collect::<Result<Vec<_>, BenchError>>()?;
        let [frames, _, _] = network.latent_grid();
        let samples = 1 + usize::from(self.guided);
        let latents = network.latents::<B>(&device).repeat_dim(0, samples);
        let timesteps = Tensor::full([samples, frames], 500.0, (&device, DType::F32));
        let text = network.text::<B>(&device, samples);
        let times = network.timing.time::<B>(&device, || {
            let (latents, timesteps) = (latents.clone(), timesteps.clone());
            match &replicas[..] {
                [model] => model.forward(latents, timesteps, &text, 0)?,
                _ if self.guided => {
                    forward_samples(&replicas, &devices, latents, timesteps, &text, 0, &[])?
                }
                _ => ParallelTransformer::new(&replicas, &devices)?
                    .forward(latents, timesteps, &text, 0)?,
            };
            Ok(())
        })?;
        let result = json!({
            "network": "dit", "device": self.devices(), "tokens": network.tokens(),
            "samples": samples,
            "depth": network.depth, "lora_rank": self.lora_rank, "first_milliseconds": times.first,
            "milliseconds": times.median, "milliseconds_per_block": times.median / network.depth as f64,
            "memory_bytes": network.timing.memory_taken(),
        });
        report(result);
        Ok(())
    }
}

impl Dit {
    fn devices(&self) -> String {
        match &self.share {
            Some(devices) => devices.to_string(),
            None => self.network.timing.device.to_string(),
        }
    }

    /// The transformer, with its adapter if there is to be one.
    fn model<B: KernelBackend>(
        &self,
        device: &B::Device,
    ) -> Result<LongCatTransformer<B>, BenchError> {
        let mut model = self.network.model::<B>(device)?;
        if self.lora_rank > 0 {
            let config = LoraConfig::of_rank(self.lora_rank);
            attach_adapter(&mut model, &config, self.network.timing.dtype(), 0)?;
        }
        Ok(model)
    }
}
