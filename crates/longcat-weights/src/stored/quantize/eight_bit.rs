//! Values of eight bits with scales beside them.

use longcat_kernels::PackedLayout;
use longcat_kernels::packed::to_e4m3;
use rayon::prelude::*;

/// Values that are worth a task of their own.
const TASK: usize = 1 << 16;
/// The largest number of fp8 e4m3.
const LARGEST_FP8: f32 = 448.0;
const LARGEST_INT8: f32 = 127.0;

/// As PyTorch casts `(x / scale).clamp(-448, 448)`.
pub(super) fn fp8(values: &[f32], layout: &PackedLayout) -> (Vec<u8>, Vec<f32>) {
    scaled(values, layout, LARGEST_FP8, to_e4m3)
}

/// Whole numbers from -127 to 127, of two equally near the even one.
pub(super) fn int8(values: &[f32], layout: &PackedLayout) -> (Vec<u8>, Vec<f32>) {
    scaled(values, layout, LARGEST_INT8, |x| {
        x.clamp(-LARGEST_INT8, LARGEST_INT8).round_ties_even() as i8 as u8
    })
}

/// Gives every group of values the scale that makes its largest one `largest`.
fn scaled(
    values: &[f32],
    layout: &PackedLayout,
    largest: f32,
    encode: impl Fn(f32) -> u8 + Sync,
) -> (Vec<u8>, Vec<f32>) {
    let groups = values.par_chunks(layout.group);
    let scale: Vec<f32> = groups
        .map(|group| {
            let scale = magnitude(group) / largest;
            // Of zeros, or numbers so small that they are as good as zeros, any will do but 0.
            if scale == 0.0 { 1.0 } else { scale }
        })
        .collect();
    let columns = layout.shape[1].min(layout.group);
    let mut bytes = vec![0; values.len()];
    bytes
        .par_chunks_mut(columns)
        .zip(values.par_chunks(columns))
        .with_min_len((TASK / columns).max(1))
        .enumerate()
        .for_each(|(run, (bytes, values))| {
            let scale = scale[run * columns / layout.group];
            for (byte, value) in bytes.iter_mut().zip(values) {
                *byte = encode(value / scale);
            }
        });
    (bytes, scale)
}

fn magnitude(values: &[f32]) -> f32 {
    let tasks = values.par_chunks(TASK);
    let largest = tasks.map(|values| values.iter().fold(0.0, |most: f32, x| most.max(x.abs())));
    largest.reduce(|| 0.0, f32::max)
}
