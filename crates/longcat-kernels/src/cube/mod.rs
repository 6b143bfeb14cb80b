//! Kernels for the cubecl runtimes (CUDA, wgpu).
//!
//! Attention, dense or by block list, forward and backward: on tensor cores, by cooperative matrices, and
//! without for devices and shapes that have none ([`launches`] tells which ran).

pub(crate) mod attention;
mod backend;
pub(crate) mod conv;
mod cooperative;
pub(crate) mod launch;
mod norm;
mod packed;
mod permute;
mod products;
pub(crate) mod runtime;
mod upload;
pub(crate) mod watch;

pub use attention::{Launches, launches};
