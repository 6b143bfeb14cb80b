//! Products of fp8 numbers (e4m3).

use std::sync::LazyLock;

use burn_backend::DType;

use super::engine::{Addresses, Batch, Engine, Fp8, Problem};
use super::operand::{Element, Operand};
use super::{Cuda, ENGINES, is_planned, is_usable};

/// Whether cuBLASLt may apply scales of rows, where it can.
static SCALES: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("LONGCAT_NO_FP8_SCALES").is_none());

/// Where memory that was asked for by itself starts.
const ALIGNMENT: u32 = 256;

/// A product that cuBLASLt has agreed to compute.
pub(crate) struct Fp8Product {
    problem: Problem,
}

impl Fp8Product {
    /// The product of `[rows, inner, out]` with the scales of rows applied and the bias added; `None` where
    /// the library does not do that. `weight` is in words, rows one after another.
    pub(crate) fn plan(weight: &Cuda, sizes: [usize; 3], dtype: DType, bias: bool) -> Option<Self> {
        let planned = || Self::of(weight, sizes, dtype, bias, Fp8::Scaled);
        SCALES.then(planned).flatten()
    }

    /// The product of the bare numbers.
    pub(crate) fn plan_unscaled(weight: &Cuda, sizes: [usize; 3], dtype: DType) -> Option<Self> {
        Self::of(weight, sizes, dtype, false, Fp8::Unscaled)
    }

    fn of(
        weight: &Cuda,
        [rows, inner, out]: [usize; 3],
        dtype: DType,
        bias: bool,
        fp8: Fp8,
    ) -> Option<Self> {
        let operand = |stride: usize, alignment: u32| Operand {
            stride,
            transposed: false,
            alignment,
        };
        let problem = Problem {
            rows,
            inner,
            out,
            element: Element::of(dtype)?,
            fp8: Some(fp8),
            x: operand(inner, ALIGNMENT),
            weight: operand(inner, Operand::of(weight)?.alignment),
            y: operand(out, ALIGNMENT),
            bias,
            accumulate: false,
            batch: Batch::ONE,
        };
        let planned = is_usable() && is_planned(weight.device.index, problem);
        planned.then_some(Self { problem })
    }

    /// Whether it applies scales.
    pub(crate) fn is_scaled(&self) -> bool {
        self.problem.fp8 == Some(Fp8::Scaled)
    }

    /// Queues the product of `[x, weight, y, weight scales, x scales]`; `x` and `y` are new tensors of their
    /// own. The scales and the bias count where it was planned so.
    pub(crate) fn submit(self, tensors: [&Cuda; 5], bias: Option<&Cuda>) {
        let (problem, scaled) = (self.problem, self.is_scaled());
        let run = move |engine: &Engine, at: [u64; 5], bias: Option<u64>| {
            let [x, weight, y, of_weight, of_x] = at;
            let at = Addresses {
                x,
                weight,
                bias,
                y,
                scales: scaled.then_some([of_x, of_weight]),
            };
            // SAFETY: the context is current; the tensors are those that the problem was read off, and `y` is
            // new.
            unsafe { engine.run(&problem, at) }
        };
        match bias {
            None => ENGINES.submit(tensors, move |engine, at| run(engine, at, None)),
            Some(bias) => {
                let [x, weight, y, of_weight, of_x] = tensors;
                let tensors = [x, weight, y, of_weight, of_x, bias];
                ENGINES.submit(tensors, move |engine, at| {
                    let [x, weight, y, of_weight, of_x, bias] = at;
                    run(engine, [x, weight, y, of_weight, of_x], Some(bias))
                });
            }
        }
    }
}
