//! Attention operations.

use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor, TensorPrimitive};
use longcat_kernels::{BsaParams, EmptySelection, KernelBackend, bsa_attention};
use serde_json::{Value, json};

use super::timing::{Times, Timing};
use super::{Bench, BenchError, Report, measure};

/// Attention operations.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Tokens of dense attention, forward and backward: those of 480p and 93 frames.
    pub tokens: usize,
    /// Token grid T,H,W of block-sparse attention with selection, chunks of 4×4×4 and a sparsity of
    /// 0.9375: that of the released refine stage.
    pub grid: [usize; 3],
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How often, and where.
    pub timing: Timing,
}

impl Attention {
    /// Measures dense attention forward and backward, and block-sparse attention forward.
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.timing.check()?;
        if self.grid.contains(&0) {
            return Err(BenchError::Setting(
                "--grid takes three positive numbers, T,H,W",
            ));
        }
        measure(self.timing.device, self, report)
    }

    fn normal<B: Backend>(&self, tokens: usize, device: &B::Device) -> Tensor<B, 4> {
        let shape = [1, self.heads, tokens, self.head_dim];
        Tensor::<B, 4>::random(shape, Distribution::Normal(0.0, 1.0), device)
            .cast(self.timing.dtype())
    }

    fn result(&self, operation: &str, tokens: usize, operations: f64, times: Times) -> Value {
        json!({
            "operation": operation, "device": self.timing.device.to_string(),
            "tokens": tokens, "heads": self.heads, "head_dim": self.head_dim,
            "first_milliseconds": times.first, "milliseconds": times.median,
            "tflops": operations / times.median / 1e9,
        })
    }

    fn dense<B: KernelBackend>(
        &self,
        device: &B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let raw = |x: &Tensor<B, 4>| x.clone().into_primitive().tensor();
        let [q, k, v, d_out] = [(); 4].map(|()| self.normal::<B>(self.tokens, device));
        let scale = (self.head_dim as f64).powf(-0.5);
        let operations = 4.0 * (self.tokens.pow(2) * self.heads * self.head_dim) as f64;
        let forward = || B::attention_forward(raw(&q), raw(&k), raw(&v), None, scale);
        let times = self.timing.time::<B>(device, || {
            forward();
            Ok(())
        })?;
        report(self.result("attention forward", self.tokens, operations, times));

        let (out, lse) = forward();
        let out: Tensor<B, 4> = Tensor::from_primitive(TensorPrimitive::Float(out));
        let times = self.timing.time::<B>(device, || {
            B::attention_backward(
                raw(&q),
                raw(&k),
                raw(&v),
                raw(&out),
                lse.clone(),
                raw(&d_out),
                None,
                scale,
            );
            Ok(())
        })?;
        report(self.result("attention backward", self.tokens, 2.5 * operations, times));
        Ok(())
    }

    /// Effective operations are those of the kept pairs of tokens.
    fn sparse<B: KernelBackend>(
        &self,
        device: &B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let grid = self.grid;
        let tokens: usize = grid.iter().product();
        let sparsity = 0.9375;
        let params = BsaParams {
            sparsity: Some(sparsity),
            cdf_threshold: None,
            chunk_3d_shape_q: [4; 3],
            chunk_3d_shape_k: [4; 3],
            empty_selection: EmptySelection::KeepBest,
        };
        let kept = ((1.0 - sparsity) * (tokens / 64) as f64) as usize * 64;
        let [q, k, v] = [(); 3].map(|()| self.normal::<B>(tokens, device));
        let times = self.timing.time::<B>(device, || {
            bsa_attention(q.clone(), k.clone(), v.clone(), grid, grid, &params);
            Ok(())
        })?;
        let operations = 4.0 * (tokens * kept * self.heads * self.head_dim) as f64;
        report(self.result("block-sparse attention forward", tokens, operations, times));
        Ok(())
    }
}

impl Bench for Attention {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        self.dense::<B>(&device, report)?;
        self.sparse::<B>(&device, report)
    }
}
