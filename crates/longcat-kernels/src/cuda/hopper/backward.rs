//! Attention backward: what calls it takes, and its launches.

use std::any::Any;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::Ordering;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::cuda::CudaRuntime;
use cudarc::driver::{result as driver, sys};

use super::engine::{Engine, tensor_map, wide};
use super::variant::{BackwardVariant, HEAD_DIM, Pass, Program};
use super::{ENABLED, ENGINES, empty, fits, half_of, is_ready, strides, with_distinct_rows};
use crate::cube::attention::{BACKWARD_HOPPER, Backward, List};
use crate::cuda::cast;

type Gradients<R> = (CubeTensor<R>, CubeTensor<R>, CubeTensor<R>);

/// `(dq, dk, dv)`, or `None` where the kernels do not take the call.
///
/// # Panics
/// If an earlier call was queued but failed on the device's thread.
pub(crate) fn try_backward<R: CubeRuntime>(
    tensors: &Backward<R>,
    list: &List<R>,
) -> Option<Gradients<R>> {
    if !*ENABLED || list.sparse {
        return None;
    }
    let tensors = (tensors as &dyn Any).downcast_ref::<Backward<CudaRuntime>>()?;
    cast(backward(tensors)?)
}

fn backward(tensors: &Backward<CudaRuntime>) -> Option<Gradients<CudaRuntime>> {
    let Backward {
        q,
        k,
        v,
        out,
        lse,
        d_out,
        scale,
    } = tensors;
    let half = half_of(q.dtype)?;
    let [batch, heads, queries, _] = q.meta.shape().dims::<4>();
    let keys = k.meta.shape()[2];
    let taken = fits(q.meta.shape().dims(), keys, *scale)
        && v.meta.shape()[3] == HEAD_DIM
        && [k, v, out, d_out]
            .iter()
            .all(|tensor| tensor.dtype == q.dtype)
        && lse.dtype == DType::F32;
    let programs = Pass::ALL.map(|pass| Program::Backward(BackwardVariant { half, pass }));
    if !taken || !is_ready(q.device.index, &programs) {
        return None;
    }

    let [q, k, v, out, d_out] =
        [q, k, v, out, d_out].map(|tensor| with_distinct_rows(tensor.clone()));
    let lse = into_contiguous(lse.clone());
    let padded = padded(queries);
    let statistics = empty(&q, Shape::from([batch, heads, 2, padded]), DType::F32);
    let [dq, dk, dv] =
        [&q, &k, &v].map(|tensor| empty(tensor, tensor.meta.shape().clone(), tensor.dtype));
    let call = Call {
        half,
        batch,
        heads,
        queries,
        keys,
        q_strides: strides(&q),
        k_strides: strides(&k),
        v_strides: strides(&v),
        out_strides: strides(&out),
        d_out_strides: strides(&d_out),
        dq_strides: strides(&dq),
        dk_strides: strides(&dk),
        dv_strides: strides(&dv),
        scale: *scale as f32,
    };
    ENGINES.submit(
        [&q, &k, &v, &out, &d_out, &lse, &statistics, &dq, &dk, &dv],
        // SAFETY: the context is current, by the contract of `submit`; `call` was read off these
        // tensors, and the outputs are new.
        move |engine, addresses| unsafe { run(engine, &call, addresses) },
    );
    BACKWARD_HOPPER.fetch_add(1, Ordering::Relaxed);
    Some((dq, dk, dv))
}

/// Length of the rows of statistics: whole steps of up to 128 queries end within.
fn padded(queries: usize) -> usize {
    (queries + 127).next_multiple_of(128)
}

/// One call, without the data. Strides are in elements, of the first three dimensions.
#[derive(Debug)]
struct Call {
    half: bool,
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    q_strides: [usize; 3],
    k_strides: [usize; 3],
    v_strides: [usize; 3],
    out_strides: [usize; 3],
    d_out_strides: [usize; 3],
    dq_strides: [usize; 3],
    dk_strides: [usize; 3],
    dv_strides: [usize; 3],
    scale: f32,
}

/// `Parameters` of the source, in the pass of the statistics.
#[repr(C)]
struct StatisticsParameters {
    out: u64,
    d_out: u64,
    lse: u64,
    statistics: u64,
    out_strides: [i64; 3],
    d_out_strides: [i64; 3],
    queries: i32,
    padded: i32,
}

/// `Parameters` of the source, in the other passes.
#[repr(C)]
struct Parameters {
    x_out: u64,
    y_out: u64,
    statistics: u64,
    x_strides: [i64; 3],
    y_strides: [i64; 3],
    rows: i32,
    walked: i32,
    padded: i32,
    scale: f32,
}

/// Queues the three passes behind all work submitted to the device's context so far. The addresses
/// are those of q, k, v, out, d_out, lse, statistics, dq, dk and dv.
///
/// # Safety
/// The device's context is current, the addresses hold tensors as `call` describes them, and the
/// last four overlap nothing else.
unsafe fn run(engine: &Engine, call: &Call, addresses: [u64; 10]) -> Result<(), String> {
    let [q, k, v, out, d_out, lse, statistics, dq, dk, dv] = addresses;
    let half = call.half;
    let [sums, of_queries, of_keys] = Pass::ALL.map(|pass| BackwardVariant { half, pass });
    let padded = padded(call.queries);
    let map = |address, tokens, strides, rows| {
        tensor_map(
            half,
            address,
            [call.batch, call.heads, tokens],
            strides,
            rows,
        )
        .map_err(|err| format!("{err} for {call:?}"))
    };
    let query_maps = |rows| {
        Ok::<_, String>([
            map(q, call.queries, call.q_strides, rows)?,
            map(d_out, call.queries, call.d_out_strides, rows)?,
        ])
    };
    let key_maps = |rows| {
        Ok::<_, String>([
            map(k, call.keys, call.k_strides, rows)?,
            map(v, call.keys, call.v_strides, rows)?,
        ])
    };

    let mut sum_parameters = StatisticsParameters {
        out,
        d_out,
        lse,
        statistics,
        out_strides: wide(call.out_strides),
        d_out_strides: wide(call.d_out_strides),
        queries: call.queries as i32,
        padded: padded as i32,
    };
    // Fixed and walked rows, as the source has them.
    let mut query_tensors = (query_maps(64)?, key_maps(of_queries.step())?);
    let mut query_parameters = Parameters {
        x_out: dq,
        y_out: 0,
        statistics,
        x_strides: wide(call.dq_strides),
        y_strides: [0; 3],
        rows: call.queries as i32,
        walked: call.keys as i32,
        padded: padded as i32,
        scale: call.scale,
    };
    let mut key_tensors = (key_maps(64)?, query_maps(of_keys.step())?);
    let mut key_parameters = Parameters {
        x_out: dk,
        y_out: dv,
        x_strides: wide(call.dk_strides),
        y_strides: wide(call.dv_strides),
        rows: call.keys as i32,
        walked: call.queries as i32,
        ..query_parameters
    };

    let mut sum_arguments = [ptr::from_mut(&mut sum_parameters).cast()];
    let mut query_arguments = arguments(&mut query_tensors, &mut query_parameters);
    let mut key_arguments = arguments(&mut key_tensors, &mut key_parameters);
    let passes: [(BackwardVariant, usize, &mut [*mut c_void]); 3] = [
        (sums, padded, &mut sum_arguments),
        (of_queries, call.queries, &mut query_arguments),
        (of_keys, call.keys, &mut key_arguments),
    ];
    engine.stream.run(|stream| {
        for (variant, rows, arguments) in passes {
            let program = Program::Backward(variant);
            let kernel = engine.kernel(program)?;
            let tiles = rows
                .div_ceil(variant.rows())
                .next_multiple_of(variant.cluster());
            // SAFETY: handles that the engine never frees; the arguments are those of the kernel,
            // which the driver copies; addresses by contract.
            unsafe {
                driver::launch_kernel(
                    kernel,
                    (tiles as u32, call.heads as u32, call.batch as u32),
                    (variant.threads() as u32, 1, 1),
                    program.shared_bytes() as u32,
                    stream,
                    arguments,
                )
            }
            .map_err(|err| format!("{err:?} in {variant:?} for {call:?}"))?;
        }
        Ok(())
    })
}

/// Arguments of the passes that take tensors: fixed rows, walked rows, parameters.
fn arguments(
    (fixed, walked): &mut ([sys::CUtensorMap; 2], [sys::CUtensorMap; 2]),
    parameters: &mut Parameters,
) -> [*mut c_void; 5] {
    let [fixed_x, fixed_y] = fixed;
    let [walked_x, walked_y] = walked;
    [
        ptr::from_mut(fixed_x).cast(),
        ptr::from_mut(fixed_y).cast(),
        ptr::from_mut(walked_x).cast(),
        ptr::from_mut(walked_y).cast(),
        ptr::from_mut(parameters).cast(),
    ]
}
