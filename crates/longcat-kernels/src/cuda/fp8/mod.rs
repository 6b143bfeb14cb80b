//! Linear layers in fp8 (e4m3), on Ada, Hopper and later.
//!
//! A weight has a scale for each row, an output channel; each row of the input is given one by a kernel
//! (`fp8.cu`, compiled by NVRTC) that reads activations in bf16 or f16, or makes them on the way: normalised
//! rows, gated ones, heads side by side. cuBLASLt multiplies, and where it applies such scales itself (12.9 on
//! Hopper), it does; elsewhere another kernel does after it.

mod engine;
mod products;
mod variant;

use std::any::Any;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;

use crate::cuda::cast;
use crate::cuda::cublas;
use crate::cuda::engines::Engines;
use engine::{Engine, Heads, Norm, Outputs};
use variant::{Kind, Program, Rows};

pub(crate) use products::{try_linear, try_linear_quantized};

type Cuda = CubeTensor<CudaRuntime>;

static ENGINES: Engines<Engine> = Engines::new("a kernel of fp8 products", "LONGCAT_NO_CUBLAS");

/// Rows are of a multiple of this: the matrix units' need.
const MULTIPLE: usize = 16;
/// Numbers that a kernel reads at once.
const VECTOR: usize = 8;

/// Whether a device multiplies in fp8.
pub(crate) fn is_available(index: usize) -> bool {
    cublas::is_usable() && ENGINES.is_ready(index, |_| Some(true), |_| true)
}

/// Rows in e4m3, and in their own type where these are asked for.
pub(crate) struct Written<R: CubeRuntime> {
    /// Words of four numbers, `[rows · width / 4]` in I32.
    pub(crate) words: CubeTensor<R>,
    /// The scales of rows, `[rows]` in f32.
    pub(crate) scales: CubeTensor<R>,
    pub(crate) floats: Option<CubeTensor<R>>,
}

/// See `KernelBackend::quantize_rows`; `None` where the kernel does not apply.
///
/// # Panics
/// If the kernel does not compile, or an earlier call was queued but failed on the device's thread.
pub(crate) fn try_quantize_rows<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<Written<R>> {
    of_runtime([x], |[x]| {
        let rows = prepared(x, Kind::Plain, false)?;
        Some(quantize_plain(x, rows))
    })
}

/// See `KernelBackend::quantize_heads`, and [`try_quantize_rows`]; `floats`: also the heads side by side as they
/// are, `[B, N, H · D]`.
pub(crate) fn try_quantize_heads<R: CubeRuntime>(
    x: &CubeTensor<R>,
    floats: bool,
) -> Option<Written<R>> {
    of_runtime([x], |[x]| {
        let &[batch, heads, tokens, head] = &x.meta.shape()[..] else {
            return None;
        };
        let strides: &[usize] = x.meta.strides();
        let &[batches, of_heads, of_tokens, 1] = strides else {
            return None;
        };
        let steps = [batches, of_heads, of_tokens];
        let vectors = steps.iter().all(|step| step.is_multiple_of(VECTOR));
        if !vectors || head == 0 || !head.is_multiple_of(VECTOR) || !starts_at_vector(x) {
            return None;
        }
        let width = heads * head;
        let rows = of_width(x, width, batch * tokens, Kind::Heads(head), floats)?;
        let strides = steps.map(|step| step as i64);
        let shape = floats.then(|| Shape::new([batch, tokens, width]));
        let to = outputs(x, rows, batch * tokens, shape);
        let tensors = [x, &to.words, &to.scales, to.floats_or_words()];
        launch(rows, batch * tokens, tensors, move |at| Heads {
            x: at[0],
            strides,
            tokens: tokens as i32,
        });
        Some(to)
    })
}

/// See `KernelBackend::silu_mul_quantized`, and [`try_quantize_rows`]; `floats`: also the products as they are.
pub(crate) fn try_silu_mul_quantized<R: CubeRuntime>(
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
    floats: bool,
) -> Option<Written<R>> {
    of_runtime([a, b], |[a, b]| {
        if a.dtype != b.dtype || a.meta.shape() != b.meta.shape() {
            return None;
        }
        let rows = prepared(a, Kind::Gated, floats)?;
        let ([a, b], count) = ([a, b].map(readable), count(a, rows));
        let to = outputs(&a, rows, count, floats.then(|| a.meta.shape().clone()));
        let tensors = [&a, &b, &to.words, &to.scales, to.floats_or_words()];
        launch(rows, count, tensors, |at| [at[0], at[1]]);
        Some(to)
    })
}

/// See `KernelBackend::layer_norm_quantized`, and [`try_quantize_rows`]; `floats`: also the rows as they are.
pub(crate) fn try_layer_norm_quantized<R: CubeRuntime>(
    x: &CubeTensor<R>,
    (weight, bias): (&CubeTensor<R>, &CubeTensor<R>),
    epsilon: f64,
    floats: bool,
) -> Option<Written<R>> {
    of_runtime([x, weight, bias], |[x, weight, bias]| {
        let rows = prepared(x, Kind::Normalised, floats)?;
        let count = count(x, rows);
        let groups = weight.meta.num_elements() / rows.width;
        let fits = |table: &Cuda| {
            table.dtype == DType::F32 && table.meta.num_elements() == groups * rows.width
        };
        if groups == 0 || !count.is_multiple_of(groups) || !fits(weight) || !fits(bias) {
            return None;
        }
        let [x, weight, bias] = [x, weight, bias].map(readable);
        let to = outputs(&x, rows, count, floats.then(|| x.meta.shape().clone()));
        let tensors = [
            &x,
            &weight,
            &bias,
            &to.words,
            &to.scales,
            to.floats_or_words(),
        ];
        ENGINES.submit(tensors, move |engine, at| {
            let norm = Norm {
                x: at[0],
                weights: at[1],
                biases: at[2],
                epsilon: epsilon as f32,
                rows_per_group: count / groups,
            };
            // SAFETY: the context is current, by the contract of `submit`; the tensors are as the program's
            // rows and tables say, and the outputs are new.
            unsafe { engine.quantize_norm(rows, count, norm, places(&at[3..])) }
        });
        Some(to)
    })
}

/// Calls `make` with the tensors where they are CUDA's.
fn of_runtime<R: CubeRuntime, const N: usize>(
    tensors: [&CubeTensor<R>; N],
    make: impl FnOnce([&Cuda; N]) -> Option<Written<CudaRuntime>>,
) -> Option<Written<R>> {
    let tensors = tensors.iter();
    let cuda: Option<Vec<&Cuda>> = tensors
        .map(|&tensor| (tensor as &dyn Any).downcast_ref::<Cuda>())
        .collect();
    cast(make(cuda?.try_into().ok()?)?)
}

/// The rows of `x` `[.., width]`, once the program for them is ready.
fn prepared(x: &Cuda, kind: Kind, floats: bool) -> Option<Rows> {
    let &width = x.meta.shape().last()?;
    let count = x.meta.num_elements() / width.max(1);
    of_width(x, width, count, kind, floats)
}

/// `count` rows of `x`, once the program for them is ready.
fn of_width(x: &Cuda, width: usize, count: usize, kind: Kind, floats: bool) -> Option<Rows> {
    let half = match x.dtype {
        DType::BF16 => false,
        DType::F16 => true,
        _ => return None,
    };
    let counted = (1..=i32::MAX as usize).contains(&count);
    let rows = Rows {
        half,
        width,
        kind,
        floats,
    };
    let taken = width > 0 && width.is_multiple_of(MULTIPLE) && counted;
    (taken && is_ready(x.device.index, Program::Rows(rows))).then_some(rows)
}

fn count(x: &Cuda, rows: Rows) -> usize {
    x.meta.num_elements() / rows.width
}

/// Rows of `x` as they are.
fn quantize_plain(x: &Cuda, rows: Rows) -> Written<CudaRuntime> {
    let (x, count) = (readable(x), count(x, rows));
    let to = outputs(&x, rows, count, None);
    let tensors = [&x, &to.words, &to.scales, to.floats_or_words()];
    launch(rows, count, tensors, |at| at[0]);
    to
}

/// Queues rows that are made of all tensors but the last three, the outputs: `source` makes the program's
/// structure of this name of their addresses.
fn launch<const N: usize, S: 'static>(
    rows: Rows,
    count: usize,
    tensors: [&Cuda; N],
    source: impl FnOnce(&[u64]) -> S + Send + 'static,
) {
    ENGINES.submit(tensors, move |engine, at| {
        let (sources, outputs) = at.split_at(N - 3);
        // SAFETY: the context is current, by the contract of `submit`; the program is that of these rows, and
        // the outputs are new.
        unsafe { engine.quantize(rows, count, source(sources), places(outputs)) }
    });
}

/// Addresses of words, scales and floats.
fn places(at: &[u64]) -> Outputs {
    Outputs {
        words: at[0],
        scales: at[1],
        floats: at[2],
    }
}

impl Written<CudaRuntime> {
    /// Some tensor in the place of floats that are not asked for.
    fn floats_or_words(&self) -> &Cuda {
        self.floats.as_ref().unwrap_or(&self.words)
    }
}

/// New tensors for `count` rows; those of their own type have the given shape.
fn outputs(like: &Cuda, rows: Rows, count: usize, floats: Option<Shape>) -> Written<CudaRuntime> {
    Written {
        words: empty(like, Shape::new([count * rows.width / 4]), DType::I32),
        scales: empty(like, Shape::new([count]), DType::F32),
        floats: floats.map(|shape| empty(like, shape, like.dtype)),
    }
}

/// One row after another, from a place where kernels can read 16 bytes at a time.
fn readable(x: &Cuda) -> Cuda {
    let x = into_contiguous(x.clone());
    match starts_at_vector(&x) {
        true => x,
        false => x.copy(),
    }
}

/// Allocations start at multiples of 16 bytes; slices of them may not.
fn starts_at_vector(x: &Cuda) -> bool {
    x.handle.offset_start.unwrap_or(0).is_multiple_of(16)
}

fn empty(like: &Cuda, shape: Shape, dtype: DType) -> Cuda {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// Whether the device runs a program; compiles it the first time.
///
/// # Panics
/// If a device that multiplies in fp8 does not compile it, now or before: without a word the work would be the
/// host's, for hours.
fn is_ready(index: usize, program: Program) -> bool {
    let known = move |engine: &Engine| engine.has(program).then_some(true);
    let prepare = move |engine: &mut Engine| {
        let prepared = engine.prepare(program);
        prepared
            .map_err(|failure| ENGINES.fail(index, failure))
            .is_ok()
    };
    ENGINES.check();
    let ready = ENGINES.is_ready(index, known, prepare);
    ENGINES.check();
    ready
}
