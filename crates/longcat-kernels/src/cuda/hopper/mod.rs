//! Attention for Hopper, written in CUDA C++ (`attention_forward.cu`, `attention_backward.cu`
//! and `attention_backward_products.cu`; in eight bits, where that is asked for, `eight_bit`).
//!
//! cubecl has no `wgmma`, which alone reaches the tensor cores' full rate on these chips. The
//! kernels take head size 128 in bf16 and f16, the backward ones without block lists; everything
//! else, and every other device, is left to the kernels in cubecl, as is everything where
//! `LONGCAT_NO_HOPPER` is set.

mod backward;
pub(crate) mod eight_bit;
mod engine;
mod variant;

use std::any::Any;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;

use crate::cuda::cast;
use crate::cuda::engines::Engines;

use crate::cube::attention::{FORWARD_HOPPER, List, with_readable_rows};
use engine::{Addresses, Call, Engine};
use variant::{HEAD_DIM, Program, Variant};

pub(crate) use backward::try_backward;

type Cuda = CubeTensor<CudaRuntime>;

static ENABLED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("LONGCAT_NO_HOPPER").is_none());

static ENGINES: Engines<Engine> = Engines::new("the Hopper attention kernel", "LONGCAT_NO_HOPPER");

/// Largest size of the second and third dimension of a grid.
const MAX_GRID: usize = 65_535;
/// Blocks of lists are cut into steps of this many tokens.
const STEP: usize = 64;

/// Output and log-sum-exp, or `None` where the kernel does not take the call.
///
/// # Panics
/// If an earlier call was queued but failed on the device's thread.
pub(crate) fn try_forward<R: CubeRuntime>(
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
    v: &CubeTensor<R>,
    list: &List<R>,
    scale: f64,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    if !*ENABLED {
        return None;
    }
    let q = (q as &dyn Any).downcast_ref::<Cuda>()?;
    let k = (k as &dyn Any).downcast_ref::<Cuda>()?;
    let v = (v as &dyn Any).downcast_ref::<Cuda>()?;
    let list = (list as &dyn Any).downcast_ref::<List<CudaRuntime>>()?;
    cast(forward(q, k, v, list, scale)?)
}

fn forward(
    q: &Cuda,
    k: &Cuda,
    v: &Cuda,
    list: &List<CudaRuntime>,
    scale: f64,
) -> Option<(Cuda, Cuda)> {
    let half = half_of(q.dtype)?;
    let [batch, heads, queries, _] = q.meta.shape().dims::<4>();
    let keys = k.meta.shape()[2];
    let blocks = [list.block_q, list.block_k];
    let taken = fits(q.meta.shape().dims(), keys, scale)
        && (!list.sparse || blocks.iter().all(|block| block.is_multiple_of(STEP)));
    let variant = Variant {
        half,
        sparse: list.sparse,
    };
    if !taken || !is_ready(q.device.index, &[Program::Forward(variant)]) {
        return None;
    }

    let [q, k, v] = [q, k, v].map(|tensor| with_distinct_rows(tensor.clone()));
    let out = empty(&q, q.meta.shape().clone(), q.dtype);
    let lse = empty(&q, Shape::from([batch, heads, queries]), DType::F32);
    let indices = indices_in_rows(list);
    let call = Call {
        variant,
        batch,
        heads,
        queries,
        keys,
        q_strides: strides(&q),
        k_strides: strides(&k),
        v_strides: strides(&v),
        out_strides: strides(&out),
        indices_strides: strides(&indices),
        counts_strides: strides(&list.counts),
        blocks,
        scale: scale as f32,
    };
    ENGINES.submit(
        [
            &q,
            &k,
            &v,
            &out,
            &lse,
            &indices,
            &list.counts,
            &list.key_valid,
        ],
        move |engine, addresses| {
            let [q, k, v, out, lse, indices, counts, key_valid] = addresses;
            let at = Addresses {
                q,
                k,
                v,
                out,
                lse,
                indices,
                counts,
                key_valid,
            };
            // SAFETY: the context is current, by the contract of `submit`; `call` was read off these
            // tensors, and the outputs are new.
            unsafe { engine.run(&call, at) }
        },
    );
    FORWARD_HOPPER.fetch_add(1, Ordering::Relaxed);
    Some((out, lse))
}

/// Whether a dtype is f16 rather than bf16; `None` if it is neither.
fn half_of(dtype: DType) -> Option<bool> {
    match dtype {
        DType::BF16 => Some(false),
        DType::F16 => Some(true),
        _ => None,
    }
}

/// Whether the kernels take queries `[batch, heads, queries, head size]`, so many keys and this scale.
fn fits([batch, heads, queries, head_dim]: [usize; 4], keys: usize, scale: f64) -> bool {
    let counted = |count: usize| (1..=i32::MAX as usize / 2).contains(&count);
    head_dim == HEAD_DIM
        && scale > 0.0
        && (1..=MAX_GRID).contains(&batch)
        && (1..=MAX_GRID).contains(&heads)
        && counted(queries)
        && counted(keys)
}

/// The indices of a list, one beside the other.
fn indices_in_rows(list: &List<CudaRuntime>) -> Cuda {
    match list.indices.meta.strides().last() {
        Some(1) => list.indices.clone(),
        _ => into_contiguous(list.indices.clone()),
    }
}

/// The copy engine reads rows that start at multiples of 16 bytes, and no dimension twice.
fn with_distinct_rows(tensor: Cuda) -> Cuda {
    let mut dimensions = tensor.meta.shape().iter().zip(tensor.meta.strides().iter());
    if dimensions.any(|(&size, &stride)| size > 1 && stride == 0) {
        return into_contiguous(tensor);
    }
    with_readable_rows(tensor)
}

fn empty(like: &Cuda, shape: Shape, dtype: DType) -> Cuda {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// Strides of the first three dimensions.
fn strides(tensor: &Cuda) -> [usize; 3] {
    let strides = tensor.meta.strides();
    [strides[0], strides[1], strides[2]]
}

/// Whether the device runs these programs; compiles them the first time.
fn is_ready(index: usize, programs: &[Program]) -> bool {
    let known = |engine: &Engine| {
        let known: Option<Vec<bool>> = programs
            .iter()
            .map(|&program| engine.known(program))
            .collect();
        Some(known?.into_iter().all(|known| known))
    };
    let wanted = programs.to_vec();
    let prepare = move |engine: &mut Engine| wanted.iter().all(|&program| engine.prepare(program));
    ENGINES.is_ready(index, known, prepare)
}
