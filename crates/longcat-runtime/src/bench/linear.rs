//! The linear layers of the released transformer.

use burn::tensor::{Distribution, Tensor};
use longcat_kernels::{KernelBackend, linear};
use serde_json::json;

use super::timing::Timing;
use super::{Bench, BenchError, Report, measure};

/// Fused qkv; attention output; feed-forward in and out.
const SHAPES: [(usize, usize); 4] = [(4096, 12288), (4096, 4096), (4096, 11008), (11008, 4096)];

/// The linear layers of the released transformer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Rows of the input: the tokens of 480p and 93 frames.
    pub rows: usize,
    /// Calls per measured run.
    pub calls: usize,
    /// How often, and where.
    pub timing: Timing,
}

impl Linear {
    /// Measures the linear layers of the released transformer, with and without bias.
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.timing.check()?;
        measure(self.timing.device, self, report)
    }
}

impl Bench for Linear {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let (dtype, rows) = (self.timing.dtype(), self.rows);
        let uniform = Distribution::Uniform(-1.0, 1.0);
        for (inner, out) in SHAPES {
            let x = Tensor::<B, 2>::random([rows, inner], uniform, &device).cast(dtype);
            let weight = Tensor::<B, 2>::random([out, inner], uniform, &device).cast(dtype);
            let bias = Tensor::<B, 1>::random([out], uniform, &device).cast(dtype);
            for (kind, bias) in [("bias", Some(bias)), ("plain", None)] {
                let times = self.timing.time::<B>(&device, || {
                    for _ in 0..self.calls {
                        linear(x.clone(), weight.clone(), bias.clone());
                    }
                    Ok(())
                })?;
                let milliseconds = times.median / self.calls as f64;
                let operations = 2.0 * (rows * inner * out) as f64;
                let result = json!({
                    "operation": "linear", "device": self.timing.device.to_string(),
                    "rows": rows, "in": inner, "out": out, "kind": kind,
                    "milliseconds": milliseconds, "tflops": operations / milliseconds / 1e9,
                });
                report(result);
            }
        }
        Ok(())
    }
}
