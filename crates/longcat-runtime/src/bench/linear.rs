//! The linear layers of the released transformer.

use burn::tensor::{DType, Distribution, Tensor};
use longcat_kernels::{
    KernelBackend, PackedKind, PackedLayout, PackedWeight, Products, layer_norm,
    layer_norm_quantized, linear, linear_packed, merge_heads, quantize_heads, quantize_rows,
    silu_mul, silu_mul_quantized, unpack_weight,
};
use serde_json::json;

use super::timing::{Times, Timing};
use super::{Bench, BenchError, Report, measure, packing};

/// Fused qkv; attention output; feed-forward in and out.
const SHAPES: [(usize, usize); 4] = [(4096, 12288), (4096, 4096), (4096, 11008), (11008, 4096)];

/// Heads of the released transformer.
const HEADS: usize = 32;

/// Rows that are compared with products in f32, at the beginning and at the end; as many as every device
/// multiplies without tuning.
const COMPARED: usize = 64;

/// Packed weights that are timed beside dense ones.
const PACKED: [PackedKind; 4] = [
    PackedKind::Fp8E4m3,
    PackedKind::Q8_0,
    PackedKind::Q6_K,
    PackedKind::Q4_K,
];

/// The linear layers of the released transformer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Rows of the input: the tokens of 480p and 93 frames.
    pub rows: usize,
    /// Calls per measured run.
    pub calls: usize,
    /// Products in fp8 in the place of other packed weights.
    pub fp8: bool,
    /// Packed weights, too.
    pub packed: bool,
    /// How often, and where.
    pub timing: Timing,
}

impl Linear {
    /// Measures the linear layers of the released transformer: with and without bias, how far some rows are
    /// from products in f32, and with packed weights, whose unpacking is also told by itself.
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
                let errors = self.errors(&x, &weight, bias.as_ref());
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
                    "relative_errors": errors,
                });
                report(result);
            }
            if self.fp8 {
                self.measure_fp8(&x, &weight, report)?;
                continue;
            }
            for kind in PACKED.into_iter().filter(|_| self.packed) {
                self.measure_packed(&x, packed::<B>(kind, [out, inner], &device), report)?;
            }
        }
        match self.fp8 {
            true => self.measure_writers::<B>(&device, report),
            false => Ok(()),
        }
    }
}

impl Linear {
    /// How far the first rows of a layer and the last are from products in f32, relative to their size.
    fn errors<B: KernelBackend>(
        &self,
        x: &Tensor<B, 2>,
        weight: &Tensor<B, 2>,
        bias: Option<&Tensor<B, 1>>,
    ) -> [f64; 2] {
        let count = COMPARED.min(self.rows);
        let y = linear(x.clone(), weight.clone(), bias.cloned());
        let weight = weight.clone().cast(DType::F32);
        let bias = bias.map(|bias| bias.clone().cast(DType::F32));
        [0, self.rows - count].map(|first| {
            let rows = |x: &Tensor<B, 2>| x.clone().narrow(0, first, count).cast(DType::F32);
            let expected = linear(rows(x), weight.clone(), bias.clone());
            packing::relative_error(rows(&y), &expected)
        })
    }

    /// A product in fp8, and by itself the rounding of its input.
    fn measure_fp8<B: KernelBackend>(
        &self,
        x: &Tensor<B, 2>,
        weight: &Tensor<B, 2>,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let device = x.device();
        if !B::has_fp8_products(&device) {
            return Err(BenchError::Setting("this device does not multiply in fp8"));
        }
        let packed = packing::packed("weight", weight)?.with_products(Products::Fp8);
        let expected = linear(x.clone(), weight.clone(), None);
        let error = packing::relative_error(linear_packed(x.clone(), &packed, None), &expected);
        let product = self.timing.time::<B>(&device, || {
            for _ in 0..self.calls {
                linear_packed(x.clone(), &packed, None);
            }
            Ok(())
        })?;
        let rounding = self.timing.time::<B>(&device, || {
            for _ in 0..self.calls {
                quantize_rows(x.clone());
            }
            Ok(())
        })?;
        let [out, inner] = packed.shape();
        let each = |times: Times| times.median / self.calls as f64;
        let (whole, rounding) = (each(product), each(rounding));
        let operations = 2.0 * (self.rows * inner * out) as f64;
        let moved = self.rows as f64 * (inner * (x.dtype().size() + 1) + 4) as f64;
        report(json!({
            "operation": "linear", "device": self.timing.device.to_string(),
            "rows": self.rows, "in": inner, "out": out, "kind": "fp8 products",
            "milliseconds": whole, "tflops": operations / whole / 1e9,
            "quantizing_milliseconds": rounding, "quantizing_gb_per_s": moved / rounding / 1e6,
            "product_milliseconds": whole - rounding,
            "product_tflops": operations / (whole - rounding) / 1e9,
            "relative_error": error,
        }));
        Ok(())
    }

    /// What writes the input of linear layers, in floats and rounded to fp8 at once.
    fn measure_writers<B: KernelBackend>(
        &self,
        device: &B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let dtype = self.timing.dtype();
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let tensor = |rows, width| Tensor::<B, 2>::random([rows, width], uniform, device);
        let [width, hidden] = [SHAPES[3].1, SHAPES[3].0];
        let x = tensor(self.rows, width).cast(dtype);
        let (weight, bias) = (tensor(1, width), tensor(1, width));
        let (a, b) = (
            tensor(self.rows, hidden).cast(dtype),
            tensor(self.rows, hidden).cast(dtype),
        );
        let heads = x.clone().reshape([1, HEADS, self.rows, width / HEADS]);
        let each = |run: &mut dyn FnMut()| -> Result<f64, BenchError> {
            let times = self.timing.time::<B>(device, || {
                (0..self.calls).for_each(|_| run());
                Ok(())
            })?;
            Ok(times.median / self.calls as f64)
        };
        let norm = || (x.clone(), weight.clone(), bias.clone());
        let floats = [
            each(&mut || {
                let (x, weight, bias) = norm();
                layer_norm(x, weight, bias, 1e-6);
            })?,
            each(&mut || drop(silu_mul(a.clone(), b.clone())))?,
            each(&mut || drop(merge_heads(heads.clone())))?,
        ];
        let rounded = [
            each(&mut || {
                let (x, weight, bias) = norm();
                layer_norm_quantized(x, weight, bias, 1e-6);
            })?,
            each(&mut || drop(silu_mul_quantized(a.clone(), b.clone())))?,
            each(&mut || drop(quantize_heads(heads.clone())))?,
        ];
        // Numbers that each reads for one that it writes.
        let kinds = [("norm", width, 1), ("gate", hidden, 2), ("heads", width, 1)];
        for ((kind, width, reads), (floats, rounded)) in
            kinds.into_iter().zip(floats.into_iter().zip(rounded))
        {
            let numbers = (self.rows * width) as f64;
            let moved = numbers * (reads * dtype.size() + 1) as f64;
            report(json!({
                "operation": "writer", "device": self.timing.device.to_string(),
                "rows": self.rows, "width": width, "kind": kind,
                "floats_milliseconds": floats, "fp8_milliseconds": rounded,
                "fp8_gb_per_s": moved / rounded / 1e6,
            }));
        }
        Ok(())
    }

    fn measure_packed<B: KernelBackend>(
        &self,
        x: &Tensor<B, 2>,
        weight: PackedWeight<B>,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let (device, dtype) = (weight.device(), x.dtype());
        let product = self.timing.time::<B>(&device, || {
            for _ in 0..self.calls {
                linear_packed(x.clone(), &weight, None);
            }
            Ok(())
        })?;
        let unpacking = self.timing.time::<B>(&device, || {
            for _ in 0..self.calls {
                unpack_weight(&weight, dtype);
            }
            Ok(())
        })?;
        let [out, inner] = weight.shape();
        let milliseconds = product.median / self.calls as f64;
        let operations = 2.0 * (self.rows * inner * out) as f64;
        report(json!({
            "operation": "linear", "device": self.timing.device.to_string(),
            "rows": self.rows, "in": inner, "out": out, "kind": format!("{:?}", weight.layout.kind),
            "milliseconds": milliseconds, "tflops": operations / milliseconds / 1e9,
            "unpacking_milliseconds": unpacking.median / self.calls as f64,
            "weight_bytes": weight.device_bytes(),
        }));
        Ok(())
    }
}

/// A weight whose bytes are all alike; what they are makes no difference to the time.
fn packed<B: KernelBackend>(
    kind: PackedKind,
    shape: [usize; 2],
    device: &B::Device,
) -> PackedWeight<B> {
    let layout = PackedLayout::new(kind, shape).with_group(shape[1]);
    // Blocks have scales of their own.
    let scale = (kind.elements() == 1).then(|| vec![1.0; layout.scales()]);
    let bytes = vec![0x11; layout.bytes()];
    PackedWeight::from_bytes(&bytes, scale.as_deref(), layout, device)
}
