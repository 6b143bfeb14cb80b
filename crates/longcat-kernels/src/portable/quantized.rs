//! Portable body of activations in eight bits.

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{Shape, TensorMetadata};
use rayon::prelude::*;

use super::{from_float, into_float, words_from_bytes};
#[cfg(feature = "cpu")]
use crate::PackedKind;
use crate::packed::{LARGEST_E4M3, to_e4m3};

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

/// The numbers that [`quantize_rows`] keeps of rows, in their shape and dtype.
#[cfg(feature = "cpu")]
pub(crate) fn rounded_rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let columns = shape[shape.num_dims() - 1].max(1);
    let x: Tensor<B, 1> = from_float(B::float_reshape(x, Shape::new([shape.num_elements()])));
    let device = x.device();
    let mut values: Vec<f32> = x.into_data().iter::<f32>().collect();
    values.par_chunks_mut(columns).for_each(|row| {
        let mut bytes = vec![0; row.len()];
        let scale = quantize(row, &mut bytes);
        PackedKind::Fp8E4m3.decode(&bytes, row);
        row.iter_mut().for_each(|x| *x *= scale);
    });
    let count = values.len();
    let data = TensorData::new(values, [count]).convert_dtype(dtype);
    let x = Tensor::<B, 1>::from_data(data, (&device, dtype));
    B::float_reshape(into_float(x), shape)
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
