//! Attention, block-sparse attention, convolution and fused kernels for Burn backends.
//!
//! Models call functions of tensors, such as [`linear`], [`attention`], [`bsa_attention`] and
//! [`conv3d`], which are differentiable under Burn's autodiff:
//!
#![cfg_attr(feature = "cpu", doc = "```")]
#![cfg_attr(not(feature = "cpu"), doc = "```ignore")]
//! use burn::tensor::Tensor;
//! use burn_flex::Flex;
//! use longcat_kernels::attention;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Default::default();
//! // One batch, one head, two tokens of two channels.
//! let keys = Tensor::<Flex, 4>::from_floats([[[[1.0, 0.0], [0.0, 1.0]]]], &device);
//! let values = Tensor::from_floats([[[[1.0, 2.0], [3.0, 4.0]]]], &device);
//! // A query of zeros sees all keys alike: its output is the mean of the values.
//! let queries = Tensor::zeros([1, 1, 1, 2], &device);
//! let out = attention(queries, keys, values, 0.5_f64.sqrt());
//! assert_eq!(out.dims(), [1, 1, 1, 2]);
//! let out: Vec<f32> = out.into_data().to_vec()?;
//! assert!((out[0] - 2.0).abs() < 1e-6 && (out[1] - 3.0).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```
//!
//! They ask for a [`KernelBackend`], a Burn backend that runs the models' heavy operations. All its
//! methods have portable bodies, and so have those of [`KernelDevice`], so that two empty impls make
//! any backend one; those with faster kernels override methods. Burn's Flex (feature `cpu`), wgpu and
//! CUDA are such backends, and [`Autodiff`](burn_autodiff::Autodiff) and fusion of one are, too.
//!
//! - `ops`: what models call, re-exported here. [`bsa`] has block-sparse attention.
//! - [`packed`]: types of packed weights, and their values on the host.
//! - [`portable`]: the default bodies, for overrides to fall back to.
//! - `flex`, `cube`, `cuda`, `webgpu`: kernels for the CPU, for cubecl's runtimes, and what runs on CUDA
//!   and wgpu beside cubecl.
//! - `wrap`: autodiff and fusion.
//! - `host`, `streamed`: weights in host memory, copied to a device while it computes.
//! - `gathering`: heads that several devices of a host exchange while they compute.
//! - `ranks`: sums over the devices of several processes.
//! - `faults`: whether a device did its work; [`guard`] stands around all that leaves one.

mod backend;
#[cfg(feature = "cubecl")]
pub mod cube;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod faults;
#[cfg(feature = "cpu")]
mod flex;
mod gathering;
mod host;
mod ops;
pub mod packed;
pub mod portable;
mod ranks;
mod streamed;
#[cfg(feature = "wgpu")]
mod webgpu;
mod wrap;

pub use backend::KernelBackend;
#[cfg(feature = "cubecl")]
pub use cube::{runtime::set_up_gpu_runtime, watch::watch_device_threads};
#[cfg(feature = "cuda")]
pub use cuda::{
    cublas::{CublasStatus, cublas_status, set_cublas_enabled},
    cudnn::cudnn_problem,
    memory::{CudaMemory, cuda_device_count, cuda_device_starts, cuda_memory},
    peers::peers_problem,
    program::kernel_problem,
    transfers::nccl_problem,
};
pub use device::{DeviceMemory, KernelDevice};
pub use faults::{DeviceError, DeviceFault, Stage, attempt, guard, wait};
pub use gathering::{AwaitCopies, BeginCopies, Gathering, PartCopies, PartCopy, transfer};
pub use host::{HostBytes, HostMemory, HostRow, UploadTicket, Uploads};
pub use ops::bsa::{BsaParams, EmptySelection, bsa_attention, bsa_attention_in};
pub use ops::{
    AttentionNumbers, BlockList, BlockRule, CdfRule, Conv3dOptions, LowRankPart, PackedTensors,
    PackedWeight, PatchGrid, QuantizedRows, Rotation, TransposedBlocks, WithQuantized,
    add_low_rank, attention, attention_in, attention_with_lse, bsa, conv3d, gated_residual,
    layer_norm, layer_norm_quantized, layer_norm_with_quantized, linear, linear_packed,
    linear_quantized, matmul_nt, merge_heads, merge_heads_with_quantized, quantize_heads,
    quantize_rows, rms_norm, silu_mul, silu_mul_quantized, silu_mul_with_quantized, split_heads,
    unpack_weight,
};
pub use packed::{PackedKind, PackedLayout, Products};
pub use ranks::{RankGroup, sum_over_ranks};
pub use streamed::{Passage, StreamedWeight, streamed_blocks};
#[cfg(feature = "wgpu")]
pub use webgpu::{adopt_wgpu_device, open_wgpu_device};
