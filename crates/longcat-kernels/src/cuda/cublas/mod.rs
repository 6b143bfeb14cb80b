//! Linear layers through cuBLASLt, on the buffers and in the order of cubecl's CUDA runtime.
//!
//! The library is opened at run time. Where it is missing, refuses a shape or is switched off,
//! [`try_linear`] answers `None`, and the caller multiplies with Burn's own kernels.

mod engine;
mod fp8;
mod operand;

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;
use cudarc::cublaslt::sys;

use crate::cuda::cast;
use crate::cuda::engines::Engines;
use crate::cuda::library::CudaLibrary;
use engine::{Addresses, Batch, Engine, Problem};
pub(crate) use fp8::Fp8Product;
use operand::{Element, Operand};

type Cuda = CubeTensor<CudaRuntime>;

const LIBRARY: CudaLibrary = CudaLibrary {
    names: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
    present: sys::is_culib_present,
};

static ENABLED: LazyLock<AtomicBool> =
    LazyLock::new(|| AtomicBool::new(std::env::var_os("LONGCAT_NO_CUBLAS").is_none()));

static ENGINES: Engines<Engine> = Engines::new("a linear layer in cuBLASLt", "LONGCAT_NO_CUBLAS");

/// Whether linear layers on CUDA run through cuBLASLt; see [`cublas_status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CublasStatus {
    /// The library is there, in this version (major·10000 + minor·100 + patch).
    Active {
        /// As the library reports it.
        version: usize,
    },
    /// Switched off by [`set_cublas_enabled`] or by the environment variable `LONGCAT_NO_CUBLAS`.
    Disabled,
    /// It cannot be used, for this reason; linear layers run on Burn's slower kernels.
    Unavailable(String),
}

impl fmt::Display for CublasStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active { version } => write!(f, "cuBLASLt {version}"),
            Self::Disabled => f.write_str("cuBLASLt is switched off"),
            Self::Unavailable(reason) => write!(
                f,
                "cuBLASLt is not available ({reason}): linear layers run several times slower"
            ),
        }
    }
}

/// Switches cuBLASLt on or off for the whole process. It is on at the start, unless the
/// environment variable `LONGCAT_NO_CUBLAS` is set.
pub fn set_cublas_enabled(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// What linear layers on CUDA run on. Opens the library if nothing has done so yet; problems with
/// a device show only after that device's first linear layer.
pub fn cublas_status() -> CublasStatus {
    if !ENABLED.load(Ordering::Relaxed) {
        return CublasStatus::Disabled;
    }
    match version() {
        Err(reason) => CublasStatus::Unavailable(reason),
        Ok(version) => ENGINES
            .refusal()
            .map_or(CublasStatus::Active { version }, CublasStatus::Unavailable),
    }
}

/// `x[.., in] · weight[out, in]ᵀ + bias[out]` → `[.., out]` in the inputs' dtype (bf16, f16 or
/// f32, the same for all; accumulation in f32), contiguous.
///
/// `None` if `R` is not the CUDA runtime, the dtypes differ or are others, a dimension is zero, or
/// cuBLASLt cannot do it. Either operand may be a transposed view of a matrix; nothing is copied
/// unless the layout cannot be told by one stride.
///
/// # Panics
/// If an earlier call was queued but failed on the device's thread.
pub(crate) fn try_linear<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    bias: Option<&CubeTensor<R>>,
) -> Option<CubeTensor<R>> {
    if !is_usable() {
        return None;
    }
    let x = (x as &dyn Any).downcast_ref::<Cuda>()?;
    let weight = (weight as &dyn Any).downcast_ref::<Cuda>()?;
    let bias = match bias {
        Some(bias) => Some((bias as &dyn Any).downcast_ref::<Cuda>()?),
        None => None,
    };
    cast(linear(x, weight, bias)?)
}

fn linear(x: &Cuda, weight: &Cuda, bias: Option<&Cuda>) -> Option<Cuda> {
    let dtype = x.dtype;
    let element = Element::of(dtype)?;
    let same = |tensor: &Cuda| tensor.dtype == dtype && tensor.device == x.device;
    if !same(weight) || !bias.is_none_or(same) {
        return None;
    }
    let shape = x.meta.shape();
    let (&inner, leading) = shape.split_last()?;
    let rows = leading.iter().product::<usize>();
    let &[out, weight_inner] = &weight.meta.shape()[..] else {
        return None;
    };
    if inner != weight_inner || rows * inner * out == 0 {
        return None;
    }
    let (x, x_operand) = matrix(x);
    let (weight, weight_operand) = matrix(weight);
    let bias = bias.map(|bias| into_contiguous(bias.clone()));

    let problem = Problem {
        rows,
        inner,
        out,
        element,
        fp8: None,
        x: x_operand?,
        weight: weight_operand?,
        y: Operand {
            stride: out,
            transposed: false,
            alignment: 256,
        },
        bias: bias.is_some(),
        accumulate: false,
        batch: Batch::ONE,
    };
    if !is_planned(x.device.index, problem) {
        return None;
    }
    let out_shape: Shape = leading.iter().copied().chain([out]).collect();
    let y = output(&x, out_shape, dtype);
    submit(problem, &x, &weight, bias.as_ref(), &y, [0; 3]);
    Some(y)
}

/// `y` with `x[.., first..first + r] · weightᵀ` added to its columns from `start` on, for terms
/// `(first, start, weight)`; in place, without a copy of anything.
///
/// `false`, with `y` as it was, where [`try_linear`] would answer `None` or `y` is shared.
///
/// # Panics
/// As [`try_linear`].
pub(crate) fn try_add_products<R: CubeRuntime>(
    y: &CubeTensor<R>,
    x: &CubeTensor<R>,
    terms: &[(usize, usize, &CubeTensor<R>)],
) -> bool {
    if !is_usable() || !y.can_mut() {
        return false;
    }
    let add = || {
        let y = (y as &dyn Any).downcast_ref::<Cuda>()?;
        let x = (x as &dyn Any).downcast_ref::<Cuda>()?;
        let terms: Option<Vec<_>> = terms
            .iter()
            .map(|&(first, start, weight)| {
                let weight = (weight as &dyn Any).downcast_ref::<Cuda>()?;
                Some((first, start, weight))
            })
            .collect();
        add_products(y, x, &terms?)
    };
    add().is_some()
}

fn add_products(y: &Cuda, x: &Cuda, terms: &[(usize, usize, &Cuda)]) -> Option<()> {
    let dtype = y.dtype;
    let element = Element::of(dtype)?;
    let (x_operand, y_operand) = (Operand::of(x)?, Operand::of(y)?);
    if x.dtype != dtype || x_operand.transposed || y_operand.transposed {
        return None;
    }
    let rows = |tensor: &Cuda| {
        let shape = tensor.meta.shape();
        shape.iter().rev().skip(1).product::<usize>()
    };
    if rows(x) != rows(y) || rows(x) == 0 {
        return None;
    }
    let mut products = Vec::with_capacity(terms.len());
    for &(first, start, weight) in terms {
        let &[out, inner] = &weight.meta.shape()[..] else {
            return None;
        };
        if weight.dtype != dtype || inner * out == 0 {
            return None;
        }
        let (weight, weight_operand) = matrix(weight);
        let problem = Problem {
            rows: rows(y),
            inner,
            out,
            element,
            fp8: None,
            x: x_operand.at(first * dtype.size()),
            weight: weight_operand?,
            y: y_operand.at(start * dtype.size()),
            bias: false,
            accumulate: true,
            batch: Batch::ONE,
        };
        // All are known to run before the first one changes `y`.
        if !is_planned(y.device.index, problem) {
            return None;
        }
        products.push((
            problem,
            weight,
            [first, 0, start].map(|column| column * dtype.size()),
        ));
    }
    for (problem, weight, offsets) in products {
        submit(problem, x, &weight, None, y, offsets);
    }
    Some(())
}

/// `q[B, H, M, D] · k[B, H, N, D]ᵀ` → `[B, H, M, N]`, all heads in one call.
///
/// `None` as for [`try_linear`].
pub(crate) fn try_matmul_nt<R: CubeRuntime>(
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    if !is_usable() {
        return None;
    }
    let q = (q as &dyn Any).downcast_ref::<Cuda>()?;
    let k = (k as &dyn Any).downcast_ref::<Cuda>()?;
    cast(products_of_heads(q, k)?)
}

fn products_of_heads(q: &Cuda, k: &Cuda) -> Option<Cuda> {
    let dtype = q.dtype;
    let element = Element::of(dtype)?;
    let (q, k) = (into_contiguous(q.clone()), into_contiguous(k.clone()));
    let &[batch, heads, rows, inner] = &q.meta.shape()[..] else {
        return None;
    };
    let out = k.meta.shape()[2];
    if k.dtype != dtype || batch * heads * rows * inner * out == 0 {
        return None;
    }
    let y = output(&q, Shape::new([batch, heads, rows, out]), dtype);
    let steps = [rows * inner, out * inner, rows * out];
    let operand = |tensor: &Cuda, stride: usize, step: usize| {
        let start = Operand::of(tensor)?;
        Some(Operand { stride, ..start }.at(step * dtype.size()))
    };
    let problem = Problem {
        rows,
        inner,
        out,
        element,
        fp8: None,
        x: operand(&q, inner, steps[0])?,
        weight: operand(&k, inner, steps[1])?,
        y: operand(&y, out, steps[2])?,
        bias: false,
        accumulate: false,
        batch: Batch {
            count: batch * heads,
            steps,
        },
    };
    if !is_planned(q.device.index, problem) {
        return None;
    }
    submit(problem, &q, &k, None, &y, [0; 3]);
    Some(y)
}

/// The tensor and how it reads as a matrix, copied only if it does not.
fn matrix(tensor: &Cuda) -> (Cuda, Option<Operand>) {
    match Operand::of(tensor) {
        Some(operand) => (tensor.clone(), Some(operand)),
        None => {
            let tensor = into_contiguous(tensor.clone());
            let operand = Operand::of(&tensor);
            (tensor, operand)
        }
    }
}

fn output(like: &Cuda, shape: Shape, dtype: DType) -> Cuda {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// Whether cuBLASLt runs `problem` on the device; asks it the first time.
fn is_planned(index: usize, problem: Problem) -> bool {
    let known = move |engine: &Engine| engine.known(&problem);
    let prepare = move |engine: &mut Engine| engine.prepare(problem);
    ENGINES.is_ready(index, known, prepare)
}

/// Queues the product on the device's thread, after whatever this thread queued there before.
/// `offsets` are the bytes from the start of `x`, `weight` and `y` to their first element.
fn submit(
    problem: Problem,
    x: &Cuda,
    weight: &Cuda,
    bias: Option<&Cuda>,
    y: &Cuda,
    offsets: [usize; 3],
) {
    let run = move |engine: &Engine, [x, weight, y]: [u64; 3], bias: Option<u64>| {
        let [x_offset, weight_offset, y_offset] = offsets.map(|offset| offset as u64);
        let at = Addresses {
            x: x + x_offset,
            weight: weight + weight_offset,
            bias,
            y: y + y_offset,
            scales: None,
        };
        // SAFETY: the context is current; `problem` was read off these tensors, and `y` is new.
        unsafe { engine.run(&problem, at) }
    };
    match bias {
        None => ENGINES.submit([x, weight, y], move |engine, at| run(engine, at, None)),
        Some(bias) => ENGINES.submit([x, weight, y, bias], move |engine, at| {
            let [x, weight, y, bias] = at;
            run(engine, [x, weight, y], Some(bias))
        }),
    }
}

/// Whether the library is there and switched on.
pub(crate) fn is_usable() -> bool {
    ENABLED.load(Ordering::Relaxed) && version().is_ok()
}

/// The library's version (major·10000 + minor·100 + patch), or why there is none.
fn version() -> Result<usize, String> {
    static VERSION: OnceLock<Result<usize, String>> = OnceLock::new();
    let open = || {
        LIBRARY.open()?;
        // SAFETY: the library is present, and the function takes nothing.
        Ok(unsafe { sys::cublasLtGetVersion() })
    };
    VERSION.get_or_init(open).clone()
}
