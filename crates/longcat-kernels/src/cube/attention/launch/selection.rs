//! Launching block selection.

use std::sync::atomic::Ordering;

use burn_backend::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::addresses;
use super::counters::SELECTION;
use crate::cube::attention::select::{UNITS, select_highest};

/// `(indices, counts)` of the `take` highest of each row of `scores`, as wide as `width`, or `None`
/// where the kernel does not take them.
pub(in crate::cube::attention) fn select<R: CubeRuntime>(
    scores: &CubeTensor<R>,
    take: usize,
    width: usize,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let [batch, heads, rows, blocks] = scores.meta.shape().dims::<4>();
    let capacity = blocks.next_multiple_of(1024);
    let hardware = &scores.client.properties().hardware;
    let shared = (capacity + 2 * UNITS) * 4;
    if scores.dtype != DType::F32
        || shared > hardware.max_shared_memory_size
        || (hardware.max_units_per_cube as usize) < UNITS
        || batch * heads * rows * blocks == 0
    {
        return None;
    }
    let take = take.min(blocks);
    let empty = |shape: Shape| {
        empty_device_dtype(
            scores.client.clone(),
            scores.device.clone(),
            shape,
            DType::I32,
        )
    };
    let indices = empty(Shape::from([batch, heads, rows, width]));
    let counts = empty(Shape::from([batch, heads, rows]));
    SELECTION.fetch_add(1, Ordering::Relaxed);
    // SAFETY: rows shorter than a cube's share are skipped, and every loop ends.
    unsafe {
        select_highest::launch_unchecked::<R>(
            &scores.client,
            CubeCount::Static(rows as u32, heads as u32, batch as u32),
            CubeDim::new_1d(UNITS as u32),
            addresses(&[scores, &indices]),
            scores.clone().into_tensor_arg(),
            indices.clone().into_tensor_arg(),
            counts.clone().into_tensor_arg(),
            take as u32,
            capacity,
        );
    }
    Some((indices, counts))
}
