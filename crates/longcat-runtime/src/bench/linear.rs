use anyhow::Result;
use burn::tensor::{Distribution, Tensor};
use clap::Args;
use longcat_kernels::{KernelBackend, linear};
use longcat_runtime::{DeviceTask, on_device};
use serde_json::json;

use super::timing::Timing;

/// Fused qkv; attention output; feed-forward in and out.
const SHAPES: [(usize, usize); 4] = [(4096, 12288), (4096, 4096), (4096, 11008), (11008, 4096)];

/// `cargo xtask bench linear`.
#[derive(Debug, Args)]
pub struct Linear {
    /// Rows of the input: the tokens of 480p and 93 frames.
    #[arg(long, default_value_t = 37_440)]
    rows: usize,
    /// Calls per measured run.
    #[arg(long, default_value_t = 50)]
    calls: usize,
    #[command(flatten)]
    timing: Timing,
}

impl Linear {
    /// Measures the linear layers of the released transformer, with and without bias.
    pub fn run(self) -> Result<()> {
        self.timing.check()?;
        on_device(self.timing.device, self)?
    }
}

impl DeviceTask for Linear {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
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
                println!("{result}");
            }
        }
        Ok(())
    }
}
