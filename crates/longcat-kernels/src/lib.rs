//! Attention, block-sparse attention and linear kernels for Burn backends.
//!
//! [`KernelBackend`] is the one trait the models ask of a backend beyond Burn's own. All its
//! methods have portable bodies, so that `impl KernelBackend for MyBackend {}` is enough; backends
//! with faster kernels override them. Models call the tensor-level functions: [`linear`],
//! [`attention`], [`bsa_attention`].

mod attention;
mod autodiff;
mod backend;
mod blocks;
pub mod bsa;
pub mod conv;
#[cfg(feature = "cubecl")]
pub mod cube;
#[cfg(feature = "cubecl")]
mod cube_conv;
#[cfg(feature = "cubecl")]
mod cube_norm;
#[cfg(feature = "cubecl")]
mod cube_permute;
#[cfg(feature = "cuda")]
mod cublas;
#[cfg(feature = "cuda")]
mod cuda_engines;
#[cfg(feature = "cuda")]
mod cuda_library;
#[cfg(feature = "cuda")]
mod cuda_memory;
#[cfg(feature = "cuda")]
mod cuda_stream;
#[cfg(feature = "cuda")]
mod cuda_transfers;
#[cfg(feature = "cuda")]
mod cuda_upload;
#[cfg(feature = "cuda")]
mod cudnn;
#[cfg(feature = "cpu")]
mod flex;
mod fused;
#[cfg(feature = "cubecl")]
mod fusion;
#[cfg(feature = "cubecl")]
mod gpu_runtime;
mod layout;
mod linear;
mod low_rank;
pub mod portable;

pub use attention::{attention, attention_with_lse};
pub use backend::{BlockRule, CdfRule, KernelBackend};
pub use blocks::{BlockList, TransposedBlocks};
pub use bsa::{BsaParams, EmptySelection, bsa_attention};
pub use conv::{Conv3dOptions, conv3d};
#[cfg(feature = "cuda")]
pub use cublas::{CublasStatus, cublas_status, set_cublas_enabled};
#[cfg(feature = "cuda")]
pub use cuda_memory::{CudaMemory, cuda_device_count, cuda_device_starts, cuda_memory};
#[cfg(feature = "cuda")]
pub use cuda_transfers::nccl_problem;
#[cfg(feature = "cuda")]
pub use cudnn::cudnn_problem;
pub use fused::{Rotation, gated_residual, layer_norm, rms_norm, silu_mul, split_heads};
#[cfg(feature = "cubecl")]
pub use gpu_runtime::set_up_gpu_runtime;
pub use layout::merge_heads;
pub use linear::{linear, matmul_nt};
pub use low_rank::{LowRankPart, add_low_rank};
