//! Attention operations.

use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor, TensorPrimitive};
use longcat_kernels::{
    AttentionNumbers, BsaParams, EmptySelection, KernelBackend, attention, attention_in,
    bsa_attention, bsa_attention_in,
};
use serde_json::{Value, json};

use super::packing::relative_error;
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
    /// Both also in eight bits, each with how far its result is from that of floats.
    pub fp8: bool,
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
        if self.fp8 {
            let heads = || [&q, &k, &v].map(Tensor::clone);
            let floats = {
                let [q, k, v] = heads();
                attention(q, k, v, scale)
            };
            let eight_bits = || {
                let [q, k, v] = heads();
                attention_in(AttentionNumbers::Fp8, q, k, v, scale)
            };
            let name = "attention forward in fp8";
            self.compare(
                name,
                (self.tokens, operations),
                device,
                floats,
                eight_bits,
                report,
            )?;
        }

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
        if !self.fp8 {
            return Ok(());
        }
        let heads = || [&q, &k, &v].map(Tensor::clone);
        let floats = {
            let [q, k, v] = heads();
            bsa_attention(q, k, v, grid, grid, &params)
        };
        let eight_bits = || bsa_attention_in(AttentionNumbers::Fp8, heads(), grid, grid, &params);
        let name = "block-sparse attention forward in fp8";
        self.compare(
            name,
            (tokens, operations),
            device,
            floats,
            eight_bits,
            report,
        )
    }

    /// Measures attention in eight bits, and how far it is from that in floats.
    fn compare<B: KernelBackend>(
        &self,
        operation: &str,
        (tokens, operations): (usize, f64),
        device: &B::Device,
        floats: Tensor<B, 4>,
        eight_bits: impl Fn() -> Tensor<B, 4>,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        if !B::has_fp8_attention(device, self.timing.dtype()) {
            return Err(BenchError::Setting("this device does not attend in fp8"));
        }
        let error = relative_error(eight_bits(), &floats);
        drop(floats);
        let times = self.timing.time::<B>(device, || {
            eight_bits();
            Ok(())
        })?;
        let mut result = self.result(operation, tokens, operations, times);
        result["relative_error"] = error.into();
        report(result);
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
