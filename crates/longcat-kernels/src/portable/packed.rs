//! Portable bodies of packed weights.

use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};
use burn_backend::TensorMetadata;
use burn_backend::tensor::{FloatTensor, IntTensor};

use super::from_float;
use crate::packed::unpack;
use crate::{KernelBackend, PackedTensors};

/// See [`KernelDevice::words_from_bytes`](crate::KernelDevice::words_from_bytes).
pub fn words_from_bytes<B: Backend>(bytes: &[u8], device: &B::Device) -> IntTensor<B> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let words = [bytes.len() / 4];
    let data = TensorData::from_bytes_vec(bytes, words, DType::I32);
    Tensor::<B, 1, Int>::from_data(data, (device, DType::I32)).into_primitive()
}

/// See [`KernelBackend::words_of_floats`](crate::KernelBackend::words_of_floats).
pub fn words_of_floats<B: Backend>(row: FloatTensor<B>) -> IntTensor<B> {
    let row: Tensor<B, 1> = from_float(row);
    let device = row.device();
    let bytes = row.into_data().bytes;
    words_from_bytes::<B>(&bytes, &device)
}

/// See [`KernelBackend::unpack_weight_forward`](crate::KernelBackend::unpack_weight_forward).
///
/// The host reads the words and makes the numbers: right on every backend, and slow on one whose device is
/// not the host, which overrides it.
pub fn unpack_weight_forward<B: Backend>(weight: PackedTensors<B>, dtype: DType) -> FloatTensor<B> {
    let PackedTensors {
        words,
        scale,
        layout,
        ..
    } = weight;
    let words = Tensor::<B, 1, Int>::from_primitive(words);
    let device = words.device();
    let words = words.into_data().convert_dtype(DType::I32);
    let scale = scale.map(|scale| from_float::<B, 1>(scale).into_data());
    let scale: Option<Vec<f32>> = scale.map(|scale| scale.iter::<f32>().collect());
    let bytes = unpack(&words.bytes, scale.as_deref(), &layout, dtype);
    B::float_from_data(
        TensorData::from_bytes_vec(bytes, layout.shape, dtype),
        &device,
    )
}

/// See [`KernelBackend::linear_packed_forward`](crate::KernelBackend::linear_packed_forward).
pub fn linear_packed_forward<B: KernelBackend>(
    x: FloatTensor<B>,
    weight: PackedTensors<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let weight = B::unpack_weight_forward(weight, x.dtype());
    B::linear_forward(x, weight, bias)
}
