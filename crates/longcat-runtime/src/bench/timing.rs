use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::DType;
use burn::tensor::backend::Backend;
use clap::Args;
use longcat_runtime::DeviceSpec;

/// What every measurement takes.
#[derive(Debug, Args)]
pub struct Timing {
    /// Runs after the first, which is reported by itself; their median is reported.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Where to run: cpu, wgpu[:i] or cuda[:i].
    #[arg(long, default_value = "cpu")]
    pub device: DeviceSpec,
    /// On cuda, multiply with Burn's own kernels instead of cuBLASLt.
    #[arg(long)]
    no_cublas: bool,
    /// One JSON object per line, which is how results are always printed.
    #[arg(long, hide = true)]
    json: bool,
}

/// Milliseconds of a call.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The first run: compilation, tuning and allocation included.
    pub first: f64,
    /// The median of the others.
    pub median: f64,
}

impl Timing {
    pub fn check(&self) -> Result<()> {
        if self.repeats == 0 {
            bail!("--repeats must be positive");
        }
        longcat_runtime::set_cublas_enabled(!self.no_cublas);
        Ok(())
    }

    /// The dtype of weights and activations on the device.
    pub fn dtype(&self) -> DType {
        self.device.default_dtype()
    }

    /// Times calls that end when the device has done its work.
    pub fn time<B: Backend>(
        &self,
        device: &B::Device,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<Times> {
        let mut times = Vec::new();
        B::sync(device)?;
        for _ in 0..=self.repeats {
            let started = Instant::now();
            run()?;
            B::sync(device)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let first = times.remove(0);
        times.sort_by(f64::total_cmp);
        Ok(Times {
            first,
            median: times[times.len() / 2],
        })
    }

    /// Memory that is taken on the device now, where the platform tells; pools keep what they once
    /// had, so after a run this is its peak.
    pub fn memory_taken(&self) -> Option<u64> {
        match self.device {
            #[cfg(feature = "cuda")]
            DeviceSpec::Cuda(index) => longcat_kernels::cuda_memory(index).map(|m| m.taken),
            _ => None,
        }
    }
}
