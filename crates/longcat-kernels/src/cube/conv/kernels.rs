//! Kernels that gather the patches of a convolution and lay out its weight.

// Kernels have no `is_multiple_of`.
#![allow(clippy::manual_is_multiple_of)]

use cubecl::prelude::*;

/// The parts of a `PatchGrid` of which there are few, so that divisions by them are cheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Steps {
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
    pub(super) repeat: [usize; 3],
    pub(super) spread: [usize; 3],
}

/// Writes the patches of the lines from `first_line` on; a unit takes one vector of one patch.
///
/// `x` is `[B, T, H, W, C]` and `out` `[rows, columns]`, with `channels`, `columns` and the strides of
/// `x` in vectors.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn patches<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    vectors: usize,
    first_line: usize,
    t: usize,
    h: usize,
    w: usize,
    channels: usize,
    stride_b: usize,
    stride_t: usize,
    stride_h: usize,
    stride_w: usize,
    out_t: usize,
    out_h: usize,
    out_w: usize,
    before_t: usize,
    before_h: usize,
    before_w: usize,
    columns: usize,
    #[comptime] steps: Steps,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= vectors {
        terminate!();
    }
    let column = ABSOLUTE_POS % columns;
    let row = ABSOLUTE_POS / columns;
    let channel = column % channels;
    let tap = column / channels;
    let taps_w = comptime!(steps.kernel[2]);
    let taps_h = comptime!(steps.kernel[1]);
    let taps_t = comptime!(steps.kernel[0]);
    let tap_w = tap % taps_w;
    let tap_h = tap / taps_w % taps_h;
    let tap_t = tap / comptime!(taps_w * taps_h);
    let line = row / out_w + first_line;

    let place_w = row % out_w * comptime!(steps.stride[2]) + tap_w;
    let place_h = line % out_h * comptime!(steps.stride[1]) + tap_h;
    let frame = line / out_h;
    let place_t = frame % out_t * comptime!(steps.stride[0]) + tap_t;
    let batch = frame / out_t;

    let mut value = Vector::<F, N>::new(F::new(0.0));
    // Columns beyond the last tap fill the row up.
    if tap_t < taps_t && place_t >= before_t && place_h >= before_h && place_w >= before_w {
        let place_t = place_t - before_t;
        let place_h = place_h - before_h;
        let place_w = place_w - before_w;
        let at_t = place_t / comptime!(steps.repeat[0] * steps.spread[0]);
        let at_h = place_h / comptime!(steps.repeat[1] * steps.spread[1]);
        let at_w = place_w / comptime!(steps.repeat[2] * steps.spread[2]);
        let on_t = place_t % comptime!(steps.spread[0]) == 0;
        let on_h = place_h % comptime!(steps.spread[1]) == 0;
        let on_w = place_w % comptime!(steps.spread[2]) == 0;
        if on_t && on_h && on_w && at_t < t && at_h < h && at_w < w {
            let line = batch * stride_b + at_t * stride_t + at_h * stride_h;
            value = x[line + at_w * stride_w + channel];
        }
    }
    out[ABSOLUTE_POS] = value;
}

/// A weight `[O, C, taps]` as a matrix `[O, taps · C]`, or with `mirrored` `[C, taps · O]` with the taps
/// in reverse; zero beyond `rows` and the last tap. A unit writes one element.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn matrix<F: Float>(
    weight: &Array<F>,
    matrix: &mut Array<F>,
    elements: usize,
    rows: usize,
    channels: usize,
    taps: usize,
    columns: usize,
    #[comptime] mirrored: bool,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= elements {
        terminate!();
    }
    let row = ABSOLUTE_POS / columns;
    let column = ABSOLUTE_POS % columns;
    let channel = column % channels;
    let tap = column / channels;
    let mut value = F::new(0.0);
    if row < rows && tap < taps {
        if comptime!(mirrored) {
            value = weight[(channel * rows + row) * taps + (taps - 1 - tap)];
        } else {
            value = weight[(row * channels + channel) * taps + tap];
        }
    }
    matrix[ABSOLUTE_POS] = value;
}
