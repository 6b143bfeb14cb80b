//! Linear layers on the CPU in f32: the bias first, then the product added to it.

use burn::tensor::TensorData;
use burn_backend::{Shape, TensorMetadata};
use burn_flex::FlexTensor;
use gemm::Parallelism;

use super::rows::{in_parallel, rows_per_task};

/// Multiplications that are worth a second thread: about a tenth of a millisecond.
const PARALLEL: usize = 192 * 192 * 192;

/// See `KernelBackend::linear_forward`. `x` and `weight` may have any strides, of which `x` has to be copied
/// for some.
///
/// Burn fills the result with zeros and adds the bias on one thread, which takes as long as a tenth of the
/// product of a layer of 512 channels.
pub(super) fn linear_forward(
    x: FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
) -> FlexTensor {
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    let [d_out, d_in]: [usize; 2] = weight.shape().dims();
    assert_eq!(shape[last], d_in, "features of the input and the weight");
    let rows = shape.num_elements() / d_in.max(1);
    shape[last] = d_out;
    // Leading dimensions are only rows.
    let x = match last {
        1 => x,
        _ => x.reshape(Shape::new([rows, d_in])),
    };
    let bias = bias.map(FlexTensor::to_contiguous);
    let mut out = in_parallel(rows * d_out, rows_per_task(d_out) * d_out, |_, out| {
        if let Some(bias) = &bias {
            for row in out.chunks_exact_mut(d_out) {
                row.copy_from_slice(bias.storage());
            }
        }
    });
    let (x_values, x_strides) = matrix(&x);
    let (weight_values, weight_strides) = matrix(weight);
    let parallelism = match rows * d_in * d_out < PARALLEL {
        true => Parallelism::None,
        false => Parallelism::Rayon(0),
    };
    // SAFETY: `out` holds `rows` rows of `d_out`, borrowed alone; the others are tensors of the shapes
    // `[rows, d_in]` and `[d_out, d_in]` with their own strides.
    unsafe {
        gemm::gemm(
            rows,
            d_out,
            d_in,
            out.as_mut_ptr(),
            1,
            d_out as isize,
            bias.is_some(),
            x_values,
            x_strides[1],
            x_strides[0],
            weight_values,
            weight_strides[0],
            weight_strides[1],
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
    FlexTensor::from_data(TensorData::new(out, shape))
}

/// Where the numbers of a matrix begin, and its strides.
fn matrix(x: &FlexTensor) -> (*const f32, [isize; 2]) {
    let (values, layout) = (x.storage::<f32>(), x.layout());
    let strides = layout.strides();
    let first = values.as_ptr().wrapping_add(layout.start_offset());
    (first, [strides[0], strides[1]])
}
