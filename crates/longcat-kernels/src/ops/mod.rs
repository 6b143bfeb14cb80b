//! What models call: functions of tensors, which check shapes and call [`KernelBackend`].
//!
//! [`KernelBackend`]: crate::KernelBackend

mod attention;
mod blocks;
pub mod bsa;
mod conv3d;
mod elementwise;
mod heads;
mod linear;
mod low_rank;
mod norm;
mod packed;
mod patch_grid;
mod quantized;

pub use attention::{AttentionNumbers, attention, attention_in, attention_with_lse};
pub use blocks::{BlockList, BlockRule, CdfRule, TransposedBlocks};
#[cfg(feature = "cubecl")]
pub(crate) use conv3d::output_shape;
pub use conv3d::{Conv3dOptions, conv3d};
pub(crate) use conv3d::{matrix_shape, padded_rows};
pub use elementwise::{gated_residual, silu_mul};
pub use heads::{Rotation, merge_heads, split_heads};
pub use linear::{linear, matmul_nt};
pub use low_rank::{LowRankPart, add_low_rank};
pub(crate) use norm::MIN_SQUARED_NORM;
pub use norm::{layer_norm, rms_norm};
pub(crate) use packed::scaled_rows;
pub use packed::{PackedTensors, PackedWeight, linear_packed, unpack_weight};
pub use patch_grid::PatchGrid;
pub use quantized::{
    QuantizedRows, WithQuantized, layer_norm_quantized, layer_norm_with_quantized,
    linear_quantized, merge_heads_with_quantized, quantize_heads, quantize_rows,
    silu_mul_quantized, silu_mul_with_quantized,
};
