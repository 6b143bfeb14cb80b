//! Attention forward in eight bits (`attention.cu` with `parts.cuh`, `inputs.cu`): what calls it takes, and its
//! launches.

mod variant;

use std::any::Any;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::Ordering;

use burn_backend::{DType, Shape};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;
use cudarc::driver::result as driver;

use super::engine::{Engine, wide};
use super::variant::{HEAD_DIM, Program};
use super::{
    Cuda, ENABLED, ENGINES, STEP, empty, fits, half_of, indices_in_rows, is_ready, strides,
    with_distinct_rows,
};
use crate::cube::attention::{FORWARD_FP8, List};
use crate::cuda::cast;
pub(super) use variant::{EightBit, Inputs};
use variant::{Input, UNIT};

/// Fewer keys than this are attended to as floats: to write tiles in eight bits takes longer then than it
/// saves.
const LEAST_KEYS: usize = 1024;

/// Whether a device attends in eight bits to heads in this dtype; compiles the kernels for it.
pub(crate) fn is_available(index: usize, dtype: DType) -> bool {
    let Some(half) = half_of(dtype) else {
        return false;
    };
    *ENABLED && is_ready(index, &programs(half, false))
}

/// The output, or `None` where the kernels do not take the call.
///
/// # Panics
/// If an earlier call was queued but failed on the device's thread.
pub(crate) fn try_forward<R: CubeRuntime>(
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
    v: &CubeTensor<R>,
    list: &List<R>,
    scale: f64,
) -> Option<CubeTensor<R>> {
    if !*ENABLED {
        return None;
    }
    let q = (q as &dyn Any).downcast_ref::<Cuda>()?;
    let k = (k as &dyn Any).downcast_ref::<Cuda>()?;
    let v = (v as &dyn Any).downcast_ref::<Cuda>()?;
    let list = (list as &dyn Any).downcast_ref::<List<CudaRuntime>>()?;
    cast(forward(q, k, v, list, scale)?)
}

fn programs(half: bool, sparse: bool) -> [Program; 4] {
    let [sums, tables, tiles] = Input::ALL.map(|kernel| Program::Inputs(Inputs { half, kernel }));
    let attention = Program::EightBit(EightBit { half, sparse });
    [sums, tables, tiles, attention]
}

fn forward(q: &Cuda, k: &Cuda, v: &Cuda, list: &List<CudaRuntime>, scale: f64) -> Option<Cuda> {
    let half = half_of(q.dtype)?;
    let [batch, heads, queries, _] = q.meta.shape().dims::<4>();
    let keys = k.meta.shape()[2];
    let blocks = [list.block_q, list.block_k];
    let taken = fits(q.meta.shape().dims(), keys, scale)
        && keys >= LEAST_KEYS
        && (!list.sparse || blocks.iter().all(|block| block.is_multiple_of(STEP)));
    let variant = EightBit {
        half,
        sparse: list.sparse,
    };
    if !taken || !is_ready(q.device.index, &programs(half, list.sparse)) {
        return None;
    }

    let [q, k, v] = [q, k, v].map(|tensor| with_distinct_rows(tensor.clone()));
    let indices = indices_in_rows(list);
    let call = Call {
        variant,
        batch,
        heads,
        queries,
        keys,
        q_units: queries.next_multiple_of(variant.rows()) / UNIT,
        k_units: keys.next_multiple_of(variant.keys()) / UNIT,
        chunks: keys.div_ceil(variant::CHUNK),
        q_strides: strides(&q),
        k_strides: strides(&k),
        v_strides: strides(&v),
        indices_strides: strides(&indices),
        counts_strides: strides(&list.counts),
        blocks,
        scale: scale as f32,
    };
    let of_heads = |count: usize, dtype| empty(&q, Shape::from([batch * heads * count]), dtype);
    let tiles = |units: usize| of_heads(units * UNIT * HEAD_DIM / 4, DType::I32);
    let out = empty(&q, q.meta.shape().clone(), q.dtype);
    let [q_tiles, k_tiles, v_tiles] = [call.q_units, call.k_units, call.k_units].map(tiles);
    let [q_scales, k_scales, sums, tables] = [
        call.q_units * UNIT,
        call.k_units,
        call.chunks * variant::SUMS * HEAD_DIM,
        variant::TABLES * HEAD_DIM,
    ]
    .map(|count| of_heads(count, DType::F32));
    ENGINES.submit(
        [
            &q,
            &k,
            &v,
            &out,
            &q_tiles,
            &k_tiles,
            &v_tiles,
            &q_scales,
            &k_scales,
            &sums,
            &tables,
            &indices,
            &list.counts,
            &list.key_valid,
        ],
        // SAFETY: the context is current, by the contract of `submit`; `call` was read off these tensors,
        // and what is written is new.
        move |engine, addresses| unsafe { run(engine, &call, addresses) },
    );
    FORWARD_FP8.fetch_add(1, Ordering::Relaxed);
    Some(out)
}

/// One call, without the data. Strides are in elements, of the first three dimensions.
#[derive(Debug)]
struct Call {
    variant: EightBit,
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    /// Tiles of a head, those that only fill up a block of threads or a step included.
    q_units: usize,
    k_units: usize,
    /// Runs of tokens of which there are sums.
    chunks: usize,
    q_strides: [usize; 3],
    k_strides: [usize; 3],
    v_strides: [usize; 3],
    indices_strides: [usize; 3],
    counts_strides: [usize; 3],
    /// Tokens per query block and per key block.
    blocks: [usize; 2],
    scale: f32,
}

/// `Inputs` of the source.
#[repr(C)]
struct InputParameters {
    q: u64,
    k: u64,
    v: u64,
    q_tiles: u64,
    k_tiles: u64,
    v_tiles: u64,
    q_scales: u64,
    k_scales: u64,
    sums: u64,
    tables: u64,
    q_strides: [i64; 3],
    k_strides: [i64; 3],
    v_strides: [i64; 3],
    queries: i32,
    keys: i32,
    q_units: i32,
    k_units: i32,
    chunks: i32,
    scale: f32,
}

/// `Parameters` of the source.
#[repr(C)]
struct Parameters {
    q_tiles: u64,
    k_tiles: u64,
    v_tiles: u64,
    q_scales: u64,
    k_scales: u64,
    tables: u64,
    out: u64,
    indices: u64,
    counts: u64,
    key_valid: u64,
    indices_strides: [i64; 3],
    counts_strides: [i64; 3],
    queries: i32,
    keys: i32,
    q_units: i32,
    k_units: i32,
    block_q: i32,
    block_k: i32,
}

/// Queues the kernels behind all work submitted to the device's context so far. The addresses are those of q,
/// k, v, out, the tiles of q, k and v, scales of q and k, sums, tables, and the list's indices, counts and
/// valid keys.
///
/// # Safety
/// The device's context is current, the addresses hold tensors as `call` describes them, and the fourth to the
/// eleventh overlap nothing else.
unsafe fn run(engine: &Engine, call: &Call, addresses: [u64; 14]) -> Result<(), String> {
    let [
        q,
        k,
        v,
        out,
        q_tiles,
        k_tiles,
        v_tiles,
        q_scales,
        k_scales,
        sums,
        tables,
        indices,
        counts,
        key_valid,
    ] = addresses;
    let mut inputs = InputParameters {
        q,
        k,
        v,
        q_tiles,
        k_tiles,
        v_tiles,
        q_scales,
        k_scales,
        sums,
        tables,
        q_strides: wide(call.q_strides),
        k_strides: wide(call.k_strides),
        v_strides: wide(call.v_strides),
        queries: call.queries as i32,
        keys: call.keys as i32,
        q_units: call.q_units as i32,
        k_units: call.k_units as i32,
        chunks: call.chunks as i32,
        scale: call.scale,
    };
    let mut parameters = Parameters {
        q_tiles,
        k_tiles,
        v_tiles,
        q_scales,
        k_scales,
        tables,
        out,
        indices,
        counts,
        key_valid,
        indices_strides: wide(call.indices_strides),
        counts_strides: wide(call.counts_strides),
        queries: call.queries as i32,
        keys: call.keys as i32,
        q_units: call.q_units as i32,
        k_units: call.k_units as i32,
        block_q: call.blocks[0] as i32,
        block_k: call.blocks[1] as i32,
    };
    let (heads, batch) = (call.heads as u32, call.batch as u32);
    let grid = |tiles: usize| (tiles as u32, heads, batch);
    let grids = [
        grid(call.chunks),
        (heads, batch, 1),
        grid(call.q_units + 2 * call.k_units),
        grid(call.queries.div_ceil(call.variant.rows())),
    ];
    let inputs = ptr::from_mut(&mut inputs).cast::<c_void>();
    let arguments = [
        inputs,
        inputs,
        inputs,
        ptr::from_mut(&mut parameters).cast::<c_void>(),
    ];
    let kernels = programs(call.variant.half, call.variant.sparse);
    engine.stream.run(|stream| {
        for ((program, grid), argument) in kernels.into_iter().zip(grids).zip(arguments) {
            let kernel = engine.kernel(program)?;
            // SAFETY: handles that the engine never frees; the argument is the kernel's structure, which the
            // driver copies; addresses by contract.
            unsafe {
                driver::launch_kernel(
                    kernel,
                    grid,
                    (program.threads() as u32, 1, 1),
                    program.shared_bytes() as u32,
                    stream,
                    &mut [argument],
                )
            }
            .map_err(|err| format!("{err:?} in {program:?} for {call:?}"))?;
        }
        Ok(())
    })
}
