//! Timing of calls.

use std::time::Instant;

use burn::tensor::DType;
use burn::tensor::backend::Backend;

use super::BenchError;
use crate::DeviceSpec;

/// What every measurement takes.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Runs after the first, which is reported by itself; their median is reported.
    pub repeats: usize,
    /// Where to run.
    pub device: DeviceSpec,
}

/// Milliseconds of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The first run: compilation, tuning and allocation included.
    pub first: f64,
    /// The median of the others.
    pub median: f64,
}

impl Timing {
    pub(super) fn check(&self) -> Result<(), BenchError> {
        if self.repeats == 0 {
            return Err(BenchError::Setting("--repeats must be positive"));
        }
        Ok(())
    }

    /// The dtype of weights and activations on the device.
    pub(super) fn dtype(&self) -> DType {
        self.device.default_dtype()
    }

    /// Times calls that end when the device has done its work.
    pub(super) fn time<B: Backend>(
        &self,
        device: &B::Device,
        mut run: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<Times, BenchError> {
        let mut times = Vec::new();
        sync::<B>(device)?;
        for _ in 0..=self.repeats {
            let started = Instant::now();
            run()?;
            sync::<B>(device)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let first = times.remove(0);
        times.sort_by(f64::total_cmp);
        // Of an even number the mean of the two in the middle.
        let [below, above] = [times.len().saturating_sub(1) / 2, times.len() / 2];
        Ok(Times {
            first,
            median: (times[below] + times[above]) / 2.0,
        })
    }

    /// Memory that is taken on the device now, where the platform tells; pools keep what they once
    /// had, so after a run this is its peak.
    pub(super) fn memory_taken(&self) -> Option<u64> {
        match self.device {
            #[cfg(feature = "cuda")]
            DeviceSpec::Cuda(index) => longcat_kernels::cuda_memory(index).map(|m| m.taken),
            _ => None,
        }
    }
}

/// Waits until the device has done its work.
pub(super) fn sync<B: Backend>(device: &B::Device) -> Result<(), BenchError> {
    B::sync(device).map_err(|e| BenchError::Device(e.to_string()))
}
