//! Linear layers in fp8 (e4m3) with sums in f32, on Ada, Hopper and later.
//!
//! A weight has a scale for each row, an output channel; each row of the input is given one by a kernel
//! (`fp8.cu`, compiled by NVRTC). cuBLASLt multiplies, and where it applies such scales itself (12.9 on
//! Hopper), it does; elsewhere another kernel does after it.

mod engine;

use std::any::Any;
use std::sync::atomic::Ordering;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;

use crate::cube::attention::{FP8_PRODUCTS, FP8_SCALED_AFTER};
use crate::cuda::cublas;
use crate::cuda::engines::Engines;
use crate::{PackedKind, PackedLayout};
use engine::{Engine, Program};

type Cuda = CubeTensor<CudaRuntime>;

static ENGINES: Engines<Engine> = Engines::new("a kernel of fp8 products", "LONGCAT_NO_CUBLAS");

/// Inner and outer dimension are multiples of this: the matrix units' need.
const MULTIPLE: usize = 16;

/// Whether a device multiplies in fp8.
pub(crate) fn is_available(index: usize) -> bool {
    cublas::is_usable() && ENGINES.is_ready(index, |_| Some(true), |_| true)
}

/// Rows `[.., C]` in bf16 or f16 to e4m3, `[rows · C / 4]` in I32, and their scales `[rows]`; `None` where the
/// kernel does not apply. See `KernelBackend::quantize_rows`.
///
/// # Panics
/// If an earlier call was queued but failed on the device's thread.
pub(crate) fn try_quantize_rows<R: CubeRuntime>(
    x: &CubeTensor<R>,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let x = (x as &dyn Any).downcast_ref::<Cuda>()?;
    let program = quantizing(x)?;
    let mut rows = Some(quantize(x, program));
    (&mut rows as &mut dyn Any)
        .downcast_mut::<Option<(CubeTensor<R>, CubeTensor<R>)>>()?
        .take()
}

/// `x · Wᵀ + bias` for rows of `x` in fp8, in the dtype of `x`, which is bf16 or f16, and a weight in words
/// with a scale for each row.
///
/// `None` where the weight, the input or the device is not made for it.
///
/// # Panics
/// As [`try_quantize_rows`].
pub(crate) fn try_linear<R: CubeRuntime>(
    x: &CubeTensor<R>,
    (words, scale): (&CubeTensor<R>, &CubeTensor<R>),
    layout: &PackedLayout,
    bias: Option<&CubeTensor<R>>,
) -> Option<CubeTensor<R>> {
    let x = (x as &dyn Any).downcast_ref::<Cuda>()?;
    let words = (words as &dyn Any).downcast_ref::<Cuda>()?;
    let scale = (scale as &dyn Any).downcast_ref::<Cuda>()?;
    let bias = match bias {
        Some(bias) => Some((bias as &dyn Any).downcast_ref::<Cuda>()?),
        None => None,
    };
    let mut y = Some(linear(x, words, scale, layout, bias)?);
    (&mut y as &mut dyn Any)
        .downcast_mut::<Option<CubeTensor<R>>>()?
        .take()
}

fn linear(
    x: &Cuda,
    words: &Cuda,
    scale: &Cuda,
    layout: &PackedLayout,
    bias: Option<&Cuda>,
) -> Option<Cuda> {
    let [out, inner] = layout.shape;
    let (&width, leading) = x.meta.shape().split_last()?;
    let rows = leading.iter().product::<usize>();
    let taken = layout.kind == PackedKind::Fp8E4m3
        && layout.group == inner
        && width == inner
        && inner.is_multiple_of(MULTIPLE)
        && out.is_multiple_of(MULTIPLE)
        && rows > 0
        && scale.dtype == DType::F32
        && bias.is_none_or(|bias| bias.dtype == x.dtype)
        && [Some(words), Some(scale), bias]
            .into_iter()
            .flatten()
            .all(|tensor| tensor.device == x.device);
    if !taken {
        return None;
    }
    let program = quantizing(x)?;
    let [words, scale] = [words, scale].map(|tensor| into_contiguous(tensor.clone()));
    let bias = bias.map(|bias| into_contiguous(bias.clone()));
    let product = cublas::Fp8Product::plan(&words, [rows, inner, out], x.dtype, bias.is_some());
    let product = match product {
        Some(product) => product,
        // What is not scaled goes beyond the range of f16.
        None if x.dtype == DType::BF16 && is_ready(x.device.index, Program::Scale) => {
            cublas::Fp8Product::plan_unscaled(&words, [rows, inner, out], x.dtype)?
        }
        None => return None,
    };
    let shape: Shape = leading.iter().copied().chain([out]).collect();
    let (x_words, x_scales) = quantize(x, program);
    let y = empty(x, shape, x.dtype);
    let tensors = [&x_words, &words, &y, &scale, &x_scales];
    if product.is_scaled() {
        product.submit(tensors, bias.as_ref());
    } else {
        product.submit(tensors, None);
        scale_product(&y, [&x_scales, &scale], [rows, out], bias.as_ref());
        FP8_SCALED_AFTER.fetch_add(1, Ordering::Relaxed);
    }
    FP8_PRODUCTS.fetch_add(1, Ordering::Relaxed);
    Some(y)
}

/// The program that quantises rows of `x`, once it is ready.
fn quantizing(x: &Cuda) -> Option<Program> {
    let half = match x.dtype {
        DType::BF16 => false,
        DType::F16 => true,
        _ => return None,
    };
    let &width = x.meta.shape().last()?;
    let rows = x.meta.num_elements() / width.max(1);
    let taken =
        width > 0 && width.is_multiple_of(MULTIPLE) && rows > 0 && rows <= i32::MAX as usize;
    let program = Program::Quantize { half, width };
    (taken && is_ready(x.device.index, program)).then_some(program)
}

fn quantize(x: &Cuda, program: Program) -> (Cuda, Cuda) {
    let x = with_aligned_start(into_contiguous(x.clone()));
    let elements = x.meta.num_elements();
    let rows = match program {
        Program::Quantize { width, .. } => elements / width,
        Program::Scale => unreachable!("no program that quantises"),
    };
    let words = empty(&x, Shape::new([elements / 4]), DType::I32);
    let scales = empty(&x, Shape::new([rows]), DType::F32);
    ENGINES.submit([&x, &words, &scales], move |engine, addresses| {
        // SAFETY: the context is current, by the contract of `submit`; the program is that of the rows of
        // `x`, and the outputs are new.
        unsafe { engine.quantize(program, rows, addresses) }
    });
    (words, scales)
}

/// Multiplies `y` by the scales of its rows and columns in place and adds the bias.
fn scale_product(y: &Cuda, scales: [&Cuda; 2], [rows, width]: [usize; 2], bias: Option<&Cuda>) {
    let [of_rows, of_columns] = scales;
    let run = move |engine: &Engine, addresses| {
        // SAFETY: the context is current, by the contract of `submit`; the tensors have these sizes, and `y`
        // is new.
        unsafe { engine.scale(rows, width, addresses) }
    };
    match bias {
        None => ENGINES.submit([y, of_rows, of_columns], move |engine, at| {
            let [y, of_rows, of_columns] = at;
            run(engine, [y, of_rows, of_columns, 0])
        }),
        Some(bias) => {
            let bias = with_aligned_start(bias.clone());
            ENGINES.submit([y, of_rows, of_columns, &bias], run);
        }
    }
}

/// Kernels read 16 bytes at a time; allocations start at such places, and slices of them may not.
fn with_aligned_start(x: Cuda) -> Cuda {
    let offset = x.handle.offset_start.unwrap_or(0);
    match offset.is_multiple_of(16) {
        true => x,
        false => x.copy(),
    }
}

fn empty(like: &Cuda, shape: Shape, dtype: DType) -> Cuda {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// Whether the device runs a program; compiles it the first time.
fn is_ready(index: usize, program: Program) -> bool {
    let known = move |engine: &Engine| engine.known(program);
    let prepare = move |engine: &mut Engine| engine.prepare(program);
    ENGINES.is_ready(index, known, prepare)
}
