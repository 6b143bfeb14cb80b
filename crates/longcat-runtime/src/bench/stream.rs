//! A forward pass with blocks in host memory, beside one with all of them on the device.

use burn::tensor::{DType, Tensor};
use longcat_dit::streamed_blocks;
use longcat_kernels::KernelBackend;
use serde_json::json;

use super::network::Network;
use super::timing::sync;
use super::{Bench, BenchError, Report, measure};

/// A forward pass with blocks in host memory, beside one with all of them on the device.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The transformer.
    pub network: Network,
    /// Blocks that stay on the device.
    pub resident_blocks: usize,
}

impl Stream {
    /// Measures both, and compares what they give.
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.network.check()?;
        measure(self.network.timing.device, self, report)
    }
}

impl Bench for Stream {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let network = &self.network;
        let mut model = network.model::<B>(&device)?;
        let [frames, _, _] = network.latent_grid();
        let latents = network.latents::<B>(&device);
        let timesteps = Tensor::<B, 2>::full([1, frames], 500.0, (&device, DType::F32));
        let text = network.text::<B>(&device, 1);
        let blocks = streamed_blocks(network.depth, self.resident_blocks);
        let mut runs = Vec::new();
        for streamed in [false, true] {
            if streamed {
                model.move_to_host(&blocks)?;
                sync::<B>(&device)?;
                B::memory_cleanup(&device);
            }
            let mut out = None;
            let times = network.timing.time::<B>(&device, || {
                let (latents, timesteps) = (latents.clone(), timesteps.clone());
                out = Some(model.forward(latents, timesteps, &text, 0)?);
                Ok(())
            })?;
            let out = out.map(|out| out.into_data().as_bytes().to_vec());
            runs.push((times, network.timing.memory_taken(), out));
        }
        if let [(all, all_memory, all_out), (some, some_memory, some_out)] = &runs[..] {
            report(json!({
                "network": "stream", "device": network.timing.device.to_string(),
                "tokens": network.tokens(), "depth": network.depth,
                "streamed_blocks": blocks.len(), "resident_milliseconds": all.median,
                "first_milliseconds": some.first, "milliseconds": some.median,
                "ratio": some.median / all.median, "same_bits": all_out == some_out,
                "resident_memory_bytes": all_memory, "memory_bytes": some_memory,
            }));
        }
        Ok(())
    }
}
