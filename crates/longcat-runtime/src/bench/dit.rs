//! A forward pass of the transformer.

use std::hash::{DefaultHasher, Hasher};

use burn::tensor::{DType, Tensor};
use longcat_dit::{LongCatTransformer, ParallelTransformer};
use longcat_kernels::{AttentionNumbers, KernelBackend, Products};
use longcat_train::{LoraConfig, attach_adapter};
use serde_json::{Value, json};

use super::network::Network;
use super::packing::{add_outliers, pack, relative_error, set_products};
use super::timing::{Times, sync};
use super::{Bench, BenchError, Report, measure};
use crate::{DeviceList, peers_problem};

/// A forward pass of the transformer.
#[derive(Debug, Clone)]
pub struct Dit {
    /// The transformer, on the first device of `share` if there is one.
    pub network: Network,
    /// Rank of an adapter on the seven kinds of layers of `cfg_step_lora`; 0 for none.
    pub lora_rank: usize,
    /// Devices that share the work.
    pub share: Option<DeviceList>,
    /// Groups of heads that these exchange, if not as many as pay.
    pub groups: Option<usize>,
    /// Two samples, as under guidance; of devices that share, half take each.
    pub guided: bool,
    /// The same network with some large channels, then with its blocks in fp8, unpacked and multiplied in
    /// fp8, each with how far its result is from the first. Not with `share`.
    pub fp8: bool,
    /// Self-attention in eight bits; with `fp8` in one more run, with products in fp8.
    pub fp8_attention: bool,
}

impl Dit {
    /// Measures a forward pass of the transformer.
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.network.check()?;
        if self.fp8 && self.share.is_some() {
            return Err(BenchError::Setting("--products fp8 is for one device"));
        }
        measure(self.network.timing.device, self, report)
    }
}

impl Bench for Dit {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        if self.fp8 {
            return self.measure_fp8::<B>(&device, report);
        }
        let network = &self.network;
        let mut devices = vec![device.clone()];
        if let Some(list) = &self.share {
            devices.extend(list.others::<B>(&device)?);
        }
        let attention = self.attention::<B>(&device)?;
        for other in &devices[1..] {
            self.attention::<B>(other)?;
        }
        let replicas = devices.iter().map(|device| {
            // The same weights on all.
            B::seed(device, 0);
            self.model::<B>(device)
        });
        let mut replicas = replicas.collect::<Result<Vec<_>, BenchError>>()?;
        for model in &mut replicas {
            model.set_attention(attention);
        }
        let [frames, _, _] = network.latent_grid();
        let samples = 1 + usize::from(self.guided);
        let latents = network.latents::<B>(&device).repeat_dim(0, samples);
        let timesteps = Tensor::full([samples, frames], 500.0, (&device, DType::F32));
        let text = network.text::<B>(&device, samples);
        let alone = || replicas[0].forward(latents.clone(), timesteps.clone(), &text, 0);
        let forward = || match replicas.len() {
            1 => alone(),
            _ => {
                // Under guidance half of the devices take each sample.
                let shared = ParallelTransformer::in_teams(&replicas, &devices, samples)?;
                let shared = match self.groups {
                    Some(groups) => shared.with_groups(groups),
                    None => shared,
                };
                shared.forward(latents.clone(), timesteps.clone(), &text, 0)
            }
        };
        let times = network.timing.time::<B>(&device, || {
            forward()?;
            Ok(())
        })?;
        let mut result = self.result(samples, times);
        result["attention"] = attention.to_string().into();
        if self.share.is_some() {
            let found = forward()?;
            result["checksum"] = checksum(&found).into();
            result["relative_error"] = relative_error(found, &alone()?).into();
            // Otherwise NCCL would be measured in its place without a word.
            if let Some(problem) = peers_problem() {
                result["problem"] = problem.into();
            }
        }
        report(result);
        Ok(())
    }
}

/// A number that two runs have in common if their results are the same bits.
fn checksum<B: KernelBackend>(x: &Tensor<B, 5>) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(x.to_data().as_bytes());
    format!("{:016x}", hasher.finish())
}

impl Dit {
    fn result(&self, samples: usize, times: Times) -> Value {
        let network = &self.network;
        json!({
            "network": "dit", "device": self.devices(), "tokens": network.tokens(),
            "samples": samples,
            "depth": network.depth, "lora_rank": self.lora_rank, "first_milliseconds": times.first,
            "milliseconds": times.median, "milliseconds_per_block": times.median / network.depth as f64,
            "memory_bytes": network.timing.memory_taken(),
        })
    }

    /// In which numbers self-attention is computed, if the device can.
    fn attention<B: KernelBackend>(
        &self,
        device: &B::Device,
    ) -> Result<AttentionNumbers, BenchError> {
        if !self.fp8_attention {
            return Ok(AttentionNumbers::Floats);
        }
        match B::has_fp8_attention(device, self.network.timing.dtype()) {
            true => Ok(AttentionNumbers::Fp8),
            false => Err(BenchError::Setting("this device does not attend in fp8")),
        }
    }

    /// Floats, packed weights, and packed weights multiplied in fp8.
    fn measure_fp8<B: KernelBackend>(
        &self,
        device: &B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let network = &self.network;
        if !B::has_fp8_products(device) {
            return Err(BenchError::Setting("this device does not multiply in fp8"));
        }
        let last = self.attention::<B>(device)?;
        let mut model = self.model::<B>(device)?;
        add_outliers(&mut model);
        let samples = 1 + usize::from(self.guided);
        let latents = network.latents::<B>(device).repeat_dim(0, samples);
        let frames = network.latent_grid()[0];
        let timesteps = Tensor::full([samples, frames], 500.0, (device, DType::F32));
        let text = network.text::<B>(device, samples);
        let mut expected = None;
        let floats = AttentionNumbers::Floats;
        let mut ways = vec![
            ("floats", Products::Dense, floats),
            ("fp8", Products::Dense, floats),
            ("fp8", Products::Fp8, floats),
        ];
        if last != floats {
            ways.push(("fp8", Products::Fp8, last));
        }
        for (weights, products, attention) in ways {
            model.set_attention(attention);
            if weights == "fp8" {
                pack(&mut model)?;
                set_products(&mut model, products)?;
                sync::<B>(device)?;
                B::memory_cleanup(device);
            }
            let forward = || model.forward(latents.clone(), timesteps.clone(), &text, 0);
            let out = forward()?;
            let error = match &expected {
                None => 0.0,
                Some(expected) => relative_error(out.clone(), expected),
            };
            expected.get_or_insert(out);
            let times = network.timing.time::<B>(device, || {
                forward()?;
                Ok(())
            })?;
            let mut result = self.result(samples, times);
            result["weights"] = weights.into();
            result["products"] = products.to_string().into();
            result["attention"] = attention.to_string().into();
            result["relative_error"] = error.into();
            report(result);
        }
        Ok(())
    }

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
