//! Attention, block-sparse attention and linear kernels for Burn backends.
//!
//! [`KernelBackend`] is the one trait the models ask of a backend beyond Burn's own. All its
//! methods have portable bodies, so that `impl KernelBackend for MyBackend {}` is enough; backends
//! with faster kernels override them. Models call the tensor-level functions: [`linear`],
//! [`attention`], [`bsa_attention`].

mod backend;
#[cfg(feature = "cubecl")]
pub mod cube;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
#[cfg(feature = "cpu")]
mod flex;
mod ops;
pub mod portable;
mod wrap;

pub use backend::KernelBackend;
#[cfg(feature = "cubecl")]
pub use cube::set_up_gpu_runtime;
#[cfg(feature = "cuda")]
pub use cuda::{
    cublas::{CublasStatus, cublas_status, set_cublas_enabled},
    cudnn::cudnn_problem,
    memory::{CudaMemory, cuda_device_count, cuda_device_starts, cuda_memory},
    transfers::nccl_problem,
};
pub use device::KernelDevice;
pub use ops::bsa::{BsaParams, EmptySelection, bsa_attention};
pub use ops::{
    BlockList, BlockRule, CdfRule, Conv3dOptions, LowRankPart, PatchGrid, Rotation,
    TransposedBlocks, add_low_rank, attention, attention_with_lse, bsa, conv3d, gated_residual,
    layer_norm, linear, matmul_nt, merge_heads, rms_norm, silu_mul, split_heads,
};
