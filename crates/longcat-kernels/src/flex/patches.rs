//! Patches of a convolution on the CPU: runs of channels are copied, lines in parallel.

use std::ops::Range;

use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::conv::PatchGrid;

/// Patches `[rows, columns]` of a contiguous `[B, T, H, W, C]` in f32.
pub(super) fn patches(x: &FlexTensor, grid: &PatchGrid, lines: Range<usize>) -> FlexTensor {
    let x = x.storage::<f32>();
    let [_, t, h, w, channels] = grid.input;
    let [taps_t, taps_h, taps_w] = grid.kernel;
    let (width, columns) = (grid.output[2], grid.columns());
    let rows = (lines.end - lines.start) * width;
    let mut out = vec![0.0; rows * columns];
    out.par_chunks_mut((width * columns).max(1))
        .zip(lines)
        .for_each(|(out, line)| {
            let [batch, o_t, o_h] = grid.line(line);
            for (tap_t, tap_h) in (0..taps_t).flat_map(|t| (0..taps_h).map(move |h| (t, h))) {
                let row = grid.place(0, o_t, tap_t).zip(grid.place(1, o_h, tap_h));
                // What lies outside stays zero.
                let Some((row_t, row_h)) = row else { continue };
                let start = ((batch * t + row_t) * h + row_h) * w * channels;
                let input = &x[start..][..w * channels];
                let first_tap = (tap_t * taps_h + tap_h) * taps_w;
                for (o_w, patch) in out.chunks_exact_mut(columns).enumerate() {
                    for tap_w in 0..taps_w {
                        if let Some(place) = grid.place(2, o_w, tap_w) {
                            patch[(first_tap + tap_w) * channels..][..channels]
                                .copy_from_slice(&input[place * channels..][..channels]);
                        }
                    }
                }
            }
        });
    FlexTensor::from_data(TensorData::new(out, [rows, columns]))
}
