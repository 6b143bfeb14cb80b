//! Choosing the key blocks with the highest scores.

use cubecl::prelude::*;

/// Units of a cube.
pub(super) const UNITS: usize = 256;
/// Runs of units whose counts are summed first.
const GROUPS: usize = 16;

/// Bits of a finite float as an integer that orders the same way.
#[cube]
fn ordered(value: f32) -> u32 {
    let bits = u32::reinterpret(select(value == 0.0f32, f32::new(0.0), value));
    select(bits >= 0x8000_0000u32, !bits, bits | 0x8000_0000u32)
}

/// Sum over all earlier units (x) and over all units (y) of each unit's count.
///
/// Must be called by all units; `counts` holds one entry per unit, `groups` one per group.
#[cube]
fn scan(counts: &mut SharedMemory<u32>, groups: &mut SharedMemory<u32>, mine: u32) -> (u32, u32) {
    let run = comptime!((UNITS / GROUPS) as u32);
    sync_cube();
    counts[UNIT_POS as usize] = mine;
    sync_cube();
    if UNIT_POS < comptime!(GROUPS as u32) {
        let mut sum = 0u32;
        for i in 0..run {
            sum += counts[(UNIT_POS * run + i) as usize];
        }
        groups[UNIT_POS as usize] = sum;
    }
    sync_cube();
    let group = UNIT_POS / run;
    let mut before = 0u32;
    let mut total = 0u32;
    for i in 0..comptime!(GROUPS as u32) {
        let sum = groups[i as usize];
        before += select(i < group, sum, 0u32);
        total += sum;
    }
    for i in group * run..UNIT_POS {
        before += counts[i as usize];
    }
    (before, total)
}

/// For each row of `scores` `[B, H, Mq, Mk]`, the indices of its `take` highest entries in ascending
/// order, followed by zeros; of equal scores the first are taken.
///
/// `indices` is `[B, H, Mq, K]` with `K >= take`. The bits of the lowest score taken are found one
/// by one, by counting. Cube `x` is the query block, `y` the head, `z` the batch entry.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn select_highest(
    scores: &Tensor<f32>,
    indices: &mut Tensor<i32>,
    counts: &mut Tensor<i32>,
    take: u32,
    #[comptime] capacity: usize,
) {
    let row = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let blocks = scores.shape(3) as u32;
    let scores_start = batch * scores.stride(0) + head * scores.stride(1) + row * scores.stride(2);
    let indices_start =
        batch * indices.stride(0) + head * indices.stride(1) + row * indices.stride(2);

    let mut keys = SharedMemory::<u32>::new(capacity);
    let mut unit_counts = SharedMemory::<u32>::new(UNITS);
    let mut group_counts = SharedMemory::<u32>::new(GROUPS);
    let mut i = UNIT_POS;
    while i < blocks {
        keys[i as usize] = ordered(scores[scores_start + i as usize * scores.stride(3)]);
        i += comptime!(UNITS as u32);
    }
    sync_cube();

    // The highest threshold that at least `take` scores reach.
    let mut threshold = 0u32;
    for step in 0..32u32 {
        let candidate = threshold | (1u32 << (31u32 - step));
        let mut reached = 0u32;
        let mut i = UNIT_POS;
        while i < blocks {
            reached += select(keys[i as usize] >= candidate, 1u32, 0u32);
            i += comptime!(UNITS as u32);
        }
        let (_before, total) = scan(&mut unit_counts, &mut group_counts, reached);
        threshold = select(total >= take, candidate, threshold);
    }

    // Each unit writes the chosen ones of its own run of blocks.
    let run = blocks.div_ceil(comptime!(UNITS as u32));
    let first = (UNIT_POS * run).min(blocks);
    let end = (first + run).min(blocks);
    let mut higher = 0u32;
    let mut equal = 0u32;
    for i in first..end {
        higher += select(keys[i as usize] > threshold, 1u32, 0u32);
        equal += select(keys[i as usize] == threshold, 1u32, 0u32);
    }
    let (higher_before, higher_total) = scan(&mut unit_counts, &mut group_counts, higher);
    let (mut equal_before, _equal_total) = scan(&mut unit_counts, &mut group_counts, equal);
    let ties = take - higher_total;
    let mut place = higher_before + equal_before.min(ties);
    for i in first..end {
        let key = keys[i as usize];
        let tied = key == threshold && equal_before < ties;
        if key == threshold {
            equal_before += 1;
        }
        if key > threshold || tied {
            indices[indices_start + place as usize * indices.stride(3)] = i32::cast_from(i);
            place += 1;
        }
    }
    let width = indices.shape(3) as u32;
    let mut i = take + UNIT_POS;
    while i < width {
        indices[indices_start + i as usize * indices.stride(3)] = 0i32;
        i += comptime!(UNITS as u32);
    }
    if UNIT_POS == 0 {
        counts[batch * counts.stride(0) + head * counts.stride(1) + row * counts.stride(2)] =
            i32::cast_from(take);
    }
}
