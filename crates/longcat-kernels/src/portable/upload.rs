//! Portable body of uploads.

use burn::tensor::{DType, TensorData, backend::Backend};
use burn_backend::tensor::FloatTensor;

/// See [`KernelDevice::float_from_bytes`](crate::KernelDevice::float_from_bytes).
pub fn float_from_bytes<B: Backend>(
    bytes: &[u8],
    dtype: DType,
    device: &B::Device,
) -> FloatTensor<B> {
    let shape = [bytes.len() / dtype.size()];
    B::float_from_data(
        TensorData::from_bytes_vec(bytes.to_vec(), shape, dtype),
        device,
    )
}
