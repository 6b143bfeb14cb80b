//! Patches of a convolution on the CPU: runs of channels are copied, lines in parallel.

use std::ops::Range;

use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::PatchGrid;

/// Patches `[rows, columns]` of `[B, T, H, W, C]` in f32, whose strides may be any: it is read again
/// for each run of lines, and a copy would be made each time.
pub(super) fn conv3d_patches(x: &FlexTensor, grid: &PatchGrid, lines: Range<usize>) -> FlexTensor {
    let (values, layout) = (x.storage::<f32>(), x.layout());
    let strides: [isize; 5] = std::array::from_fn(|dim| layout.strides()[dim]);
    let [of_batch, of_t, of_h, of_w, of_channel] = strides;
    let channels = grid.input[4];
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
                let row = layout.start_offset() as isize
                    + batch as isize * of_batch
                    + row_t as isize * of_t
                    + row_h as isize * of_h;
                let first_tap = (tap_t * taps_h + tap_h) * taps_w;
                for (o_w, patch) in out.chunks_exact_mut(columns).enumerate() {
                    for tap_w in 0..taps_w {
                        let Some(place) = grid.place(2, o_w, tap_w) else {
                            continue;
                        };
                        let start = row + place as isize * of_w;
                        let taken = &mut patch[(first_tap + tap_w) * channels..][..channels];
                        if of_channel == 1 {
                            taken.copy_from_slice(&values[start as usize..][..channels]);
                            continue;
                        }
                        for (channel, value) in taken.iter_mut().enumerate() {
                            *value = values[(start + channel as isize * of_channel) as usize];
                        }
                    }
                }
            }
        });
    FlexTensor::from_data(TensorData::new(out, [rows, columns]))
}
