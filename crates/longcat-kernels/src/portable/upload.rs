//! Portable bodies of uploads.

use burn::tensor::{DType, TensorData, backend::Backend};
use burn_backend::tensor::FloatTensor;

use crate::{HostRow, KernelDevice, UploadTicket, Uploads};

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

/// See [`KernelDevice::begin_uploads`](crate::KernelDevice::begin_uploads).
pub fn begin_uploads<B: KernelDevice>(rows: Vec<HostRow>, device: &B::Device) -> Uploads<B> {
    let rows = rows.iter();
    Uploads {
        rows: rows
            .map(|row| B::float_from_bytes(&row.bytes, row.dtype, device))
            .collect(),
        ticket: UploadTicket::default(),
    }
}
