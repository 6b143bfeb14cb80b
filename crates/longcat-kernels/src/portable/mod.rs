//! Portable bodies of [`KernelBackend`](crate::KernelBackend), made of Burn tensor operations.
//!
//! They serve as the default for every backend and as the fallback of overrides. Memory beyond
//! inputs and outputs is bounded by tiles: linear in the number of tokens.

mod attention;
mod attention_backward;
mod blocks;
mod conv3d;
mod elementwise;
mod gather;
mod groups;
mod heads;
mod linear;
mod low_rank;
mod matmul;
mod norm;
mod packed;
mod quantized;
mod select;
mod sums;
mod upload;

pub use attention::attention_forward;
pub use attention_backward::attention_backward;
pub(crate) use blocks::{list_to_mask, mask_to_list};
#[cfg(feature = "cuda")]
pub(crate) use conv3d::add_bias;
#[cfg(feature = "cpu")]
pub(crate) use conv3d::sum_of_repeats;
pub use conv3d::{
    conv3d_forward, conv3d_matrix, conv3d_patches, conv3d_weight_backward, conv3d_x_backward,
};
pub use elementwise::{
    gated_residual_forward, gated_residual_y_backward, silu_mul_backward, silu_mul_forward,
};
pub(crate) use groups::{group_sums, product_sums};
pub use heads::{
    permute, split_heads_forward, split_heads_weight_backward, split_heads_x_backward,
};
pub use linear::linear_forward;
pub use low_rank::add_low_rank_forward;
pub(crate) use matmul::filled;
pub use matmul::{matmul, matmul_nt_forward};
pub use norm::{layer_norm_forward, layer_norm_x_backward, rms_norm_backward, rms_norm_forward};
pub use packed::{linear_packed_forward, unpack_weight_forward, words_from_bytes, words_of_floats};
#[cfg(feature = "cpu")]
pub(crate) use quantized::linear_in_fp8;
pub use quantized::{
    layer_norm_quantized, layer_norm_with_quantized, linear_quantized_forward,
    merge_heads_with_quantized, quantize_heads, quantize_rows, silu_mul_quantized,
    silu_mul_with_quantized,
};
pub use select::select_blocks;
pub use sums::{block_sums, column_sums, softmax_with_lse};
pub use upload::{begin_uploads, float_from_bytes};

use burn::tensor::{DType, Tensor, TensorPrimitive, backend::Backend};
use burn_backend::tensor::FloatTensor;

/// Bytes that the temporaries of one tile may take.
const TILE_BYTES: usize = 64 << 20;

pub(crate) fn from_float<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

pub(crate) fn into_float<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// The dtype that sums are made in: f32, or f64 for f64 inputs.
pub(crate) fn accumulator(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Casts only where it changes something, so that no copy is made of f32 tensors.
pub(crate) fn to_dtype<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
    dtype: DType,
) -> Tensor<B, D> {
    if tensor.dtype() == dtype {
        tensor
    } else {
        tensor.cast(dtype)
    }
}
