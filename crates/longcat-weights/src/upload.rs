//! Host data to a device.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// A tensor of this data on `device`, in the data's type.
///
/// The values go there as one row: GPUs lay short rows out with gaps, and copy them one by one.
///
/// # Panics
/// If `D` is not the rank of the data.
pub fn upload<B: Backend, const D: usize>(data: TensorData, device: &B::Device) -> Tensor<B, D> {
    let shape: [usize; D] = data.shape.dims();
    let dtype = data.dtype;
    let row = TensorData::from_bytes(data.bytes, [shape.iter().product::<usize>()], dtype);
    Tensor::<B, 1>::from_data(row, (device, dtype)).reshape(shape)
}
