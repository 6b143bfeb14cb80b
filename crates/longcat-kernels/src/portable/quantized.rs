//! Portable bodies of activations in eight bits.

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{Shape, TensorMetadata};
use rayon::prelude::*;

use super::{from_float, into_float, linear_packed_forward, words_from_bytes};
use crate::packed::{LARGEST_E4M3, to_e4m3};
use crate::{KernelBackend, PackedTensors, WithQuantized};
#[cfg(feature = "cpu")]
use crate::{PackedKind, PackedLayout, Products};

/// The scale of rows whose numbers are all but zero.
const SMALLEST_SCALE: f32 = 1e-30;

/// See [`KernelBackend::quantize_rows`](crate::KernelBackend::quantize_rows).
///
/// The host does it: right on every backend, and slow on one whose device is not the host.
pub fn quantize_rows<B: Backend>(x: FloatTensor<B>) -> (IntTensor<B>, FloatTensor<B>) {
    let shape = x.shape();
    let columns = shape[shape.num_dims() - 1];
    let row = Shape::new([shape.num_elements()]);
    let x: Tensor<B, 1> = from_float(B::float_reshape(x, row));
    let device = x.device();
    let values: Vec<f32> = x.into_data().iter::<f32>().collect();
    let mut bytes = vec![0; values.len()];
    let rows = values.par_chunks(columns.max(1));
    let scales = rows.zip(bytes.par_chunks_mut(columns.max(1)));
    let scales: Vec<f32> = scales.map(|(row, bytes)| quantize(row, bytes)).collect();
    let words = words_from_bytes::<B>(&bytes, &device);
    let count = scales.len();
    let data = TensorData::new(scales, [count]);
    let scales = Tensor::<B, 1>::from_data(data, (&device, DType::F32));
    (words, into_float(scales))
}

/// See [`KernelBackend::quantize_heads`](crate::KernelBackend::quantize_heads).
pub fn quantize_heads<B: KernelBackend>(x: FloatTensor<B>) -> (IntTensor<B>, FloatTensor<B>) {
    let shape = x.shape();
    let merged = B::permute(x, &[0, 2, 1, 3]);
    let rows = Shape::new([shape[0] * shape[2], shape[1] * shape[3]]);
    B::quantize_rows(B::float_reshape(merged, rows))
}

/// See [`KernelBackend::layer_norm_quantized`](crate::KernelBackend::layer_norm_quantized).
pub fn layer_norm_quantized<B: KernelBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    epsilon: f64,
) -> (IntTensor<B>, FloatTensor<B>) {
    B::quantize_rows(B::layer_norm_forward(x, weight, bias, epsilon))
}

/// See [`KernelBackend::silu_mul_quantized`](crate::KernelBackend::silu_mul_quantized).
pub fn silu_mul_quantized<B: KernelBackend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
) -> (IntTensor<B>, FloatTensor<B>) {
    B::quantize_rows(B::silu_mul_forward(a, b))
}

/// See [`KernelBackend::layer_norm_with_quantized`](crate::KernelBackend::layer_norm_with_quantized).
pub fn layer_norm_with_quantized<B: KernelBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    epsilon: f64,
) -> WithQuantized<B> {
    with_quantized::<B>(B::layer_norm_forward(x, weight, bias, epsilon))
}

/// See [`KernelBackend::silu_mul_with_quantized`](crate::KernelBackend::silu_mul_with_quantized).
pub fn silu_mul_with_quantized<B: KernelBackend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
) -> WithQuantized<B> {
    with_quantized::<B>(B::silu_mul_forward(a, b))
}

/// See [`KernelBackend::merge_heads_with_quantized`](crate::KernelBackend::merge_heads_with_quantized).
pub fn merge_heads_with_quantized<B: KernelBackend>(x: FloatTensor<B>) -> WithQuantized<B> {
    let shape = x.shape();
    let merged = B::permute(x, &[0, 2, 1, 3]);
    let rows = Shape::new([shape[0], shape[2], shape[1] * shape[3]]);
    with_quantized::<B>(B::float_reshape(merged, rows))
}

fn with_quantized<B: KernelBackend>(y: FloatTensor<B>) -> WithQuantized<B> {
    let (words, scales) = B::quantize_rows(y.clone());
    (y, words, scales)
}

/// See [`KernelBackend::linear_quantized_forward`](crate::KernelBackend::linear_quantized_forward): the product of
/// the numbers in `dtype`.
pub fn linear_quantized_forward<B: KernelBackend>(
    x: PackedTensors<B>,
    weight: PackedTensors<B>,
    bias: Option<FloatTensor<B>>,
    dtype: DType,
) -> FloatTensor<B> {
    let x = B::unpack_weight_forward(x, dtype);
    linear_packed_forward::<B>(x, weight, bias)
}

/// `linear_packed` in fp8 for a backend that has no such products: that of the numbers it would multiply.
#[cfg(feature = "cpu")]
pub(crate) fn linear_in_fp8<B: KernelBackend>(
    x: FloatTensor<B>,
    weight: PackedTensors<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let (mut shape, dtype) = (x.shape(), x.dtype());
    let last = shape.num_dims() - 1;
    let [out, columns] = weight.layout.shape;
    let rows = shape.num_elements() / columns.max(1);
    let (words, scales) = B::quantize_rows(x);
    let x = PackedTensors {
        words,
        scale: Some(scales),
        layout: PackedLayout::new(PackedKind::Fp8E4m3, [rows, columns]).with_group(columns),
        products: Products::Fp8,
    };
    let y = B::linear_quantized_forward(x, weight, bias, dtype);
    shape[last] = out;
    B::float_reshape(y, shape)
}

/// Writes a row in e4m3 and tells its scale.
fn quantize(row: &[f32], bytes: &mut [u8]) -> f32 {
    let most = row.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let scale = (most / LARGEST_E4M3).max(SMALLEST_SCALE);
    let inverse = 1.0 / scale;
    for (byte, x) in bytes.iter_mut().zip(row) {
        *byte = to_e4m3(x * inverse);
    }
    scale
}
