//! Convolutions through cuDNN, on the buffers and in the order of cubecl's CUDA runtime.
//!
//! The library is opened at run time. Where it is missing, refuses a shape or is switched off,
//! [`try_conv3d`] answers `None`, and the caller multiplies patches.

mod descriptor;
mod engine;

use std::any::Any;
use std::sync::LazyLock;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::reshape;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;
use cudarc::cudnn::sys;

use crate::cube::{conv, launch::like};
use crate::cuda::cast;
use crate::cuda::engines::Engines;
use crate::cuda::library::CudaLibrary;
use crate::{Conv3dOptions, PatchGrid};
use engine::{Addresses, Engine, Problem};

type Cuda = CubeTensor<CudaRuntime>;

const LIBRARY: CudaLibrary = CudaLibrary {
    names: &["libcudnn.so.9", "libcudnn.so"],
    present: sys::is_culib_present,
};

static ENABLED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("LONGCAT_NO_CUDNN").is_none());

/// Channels are a multiple of this: vectors of 16 bytes, which matrix units want.
const CHANNELS: usize = 8;

/// Bytes that divide the address of every tensor.
const ALIGNMENT: u64 = 16;

static ENGINES: Engines<Engine> = Engines::new("a convolution in cuDNN", "LONGCAT_NO_CUDNN");

/// Why convolutions in half precision on CUDA run on our own kernels, which take about twice the
/// time, though cuDNN is not switched off (by the environment variable `LONGCAT_NO_CUDNN`), if they
/// do. Opens the library if nothing has done so yet.
pub fn cudnn_problem() -> Option<String> {
    let problem = library().as_ref().err().filter(|_| *ENABLED)?;
    Some(format!(
        "cuDNN is not available ({problem}): the VAE takes about twice the time"
    ))
}

fn library() -> &'static Result<(), String> {
    static OPENED: LazyLock<Result<(), String>> = LazyLock::new(|| LIBRARY.open());
    &OPENED
}

/// The convolution of `KernelBackend::conv3d_forward` without its bias, contiguous; its channels
/// are filled up to a multiple of [`CHANNELS`].
///
/// `None` if `R` is not the CUDA runtime, the dtypes differ or are not bf16 or f16 (f32 would be
/// rounded to TF32), channels are no whole vectors, or cuDNN cannot do it.
///
/// # Panics
/// If an earlier call was queued but failed on the device's thread.
pub(crate) fn try_conv3d<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    options: &Conv3dOptions,
) -> Option<CubeTensor<R>> {
    if !*ENABLED || library().is_err() {
        return None;
    }
    let x = (x as &dyn Any).downcast_ref::<Cuda>()?;
    let weight = (weight as &dyn Any).downcast_ref::<Cuda>()?;
    cast(conv3d(x, weight, options)?)
}

fn conv3d(x: &Cuda, weight: &Cuda, options: &Conv3dOptions) -> Option<Cuda> {
    let half = matches!(x.dtype, DType::BF16 | DType::F16);
    if !half || weight.dtype != x.dtype || weight.device != x.device {
        return None;
    }
    let input: [usize; 5] = x.meta.shape()[..].try_into().ok()?;
    let [out, channels, kt, kh, kw]: [usize; 5] = weight.meta.shape()[..].try_into().ok()?;
    // What cuDNN was told of alignment holds for whole allocations, and for slices at whole vectors.
    let start = x.handle.offset_start.unwrap_or(0);
    if !channels.is_multiple_of(CHANNELS) || !start.is_multiple_of(ALIGNMENT) {
        return None;
    }
    let grid = PatchGrid::forward(input, [kt, kh, kw], options);
    let [batch, ..] = input;
    let [t, h, w] = grid.output;
    let out = out.next_multiple_of(CHANNELS);
    let (given, padding) = plain_input(input, options);
    let problem = Problem {
        x: given,
        weight: [out, kt, kh, kw, channels],
        y: [batch, t, h, w, out],
        stride: options.stride,
        padding,
        bf16: x.dtype == DType::BF16,
    };
    let known = move |engine: &Engine| engine.known(&problem);
    let prepare = move |engine: &mut Engine| engine.prepare(problem);
    if !ENGINES.is_ready(x.device.index, known, prepare) {
        return None;
    }
    let x = match given == input && padding == options.padding.map(|[before, _]| before) {
        true => into_contiguous(x.clone()),
        false => enlarge(x, given, options)?,
    };
    let weight = conv::conv3d_matrix(weight, false, CHANNELS)?;
    let y = like(&x, Shape::new(problem.y));
    ENGINES.submit([&x, &weight, &y], move |engine, [x, weight, y]| {
        // SAFETY: the context is current; `problem` was read off these tensors, and `y` is new.
        unsafe { engine.run(&problem, Addresses { x, weight, y }) }
    });
    Some(y)
}

/// Shape and padding of an input that cuDNN can take: it repeats no positions, and pads both sides
/// alike. Where that does not do, the input is to be enlarged before.
fn plain_input(input: [usize; 5], options: &Conv3dOptions) -> ([usize; 5], [usize; 3]) {
    let even = options
        .padding
        .iter()
        .all(|[before, after]| before == after);
    if even && options.upsample == [1; 3] {
        return (input, options.padding.map(|[before, _]| before));
    }
    let mut enlarged = input;
    for (i, [before, after]) in options.padding.into_iter().enumerate() {
        enlarged[i + 1] = input[i + 1] * options.upsample[i] + before + after;
    }
    (enlarged, [0; 3])
}

/// `x` with its positions repeated and its padding around it.
fn enlarge(x: &Cuda, enlarged: [usize; 5], options: &Conv3dOptions) -> Option<Cuda> {
    let [batch, t, h, w, channels] = enlarged;
    let grid = PatchGrid {
        input: x.meta.shape()[..].try_into().ok()?,
        output: [t, h, w],
        kernel: [1; 3],
        stride: [1; 3],
        before: options.padding.map(|[before, _]| before),
        repeat: options.upsample,
        spread: [1; 3],
    };
    let rows = conv::conv3d_patches(x, &grid, 0..grid.lines(), CHANNELS)?;
    Some(reshape(rows, Shape::new([batch, t, h, w, channels])))
}
