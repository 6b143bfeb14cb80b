//! Kernels for the cubecl runtimes (CUDA, wgpu).
//!
//! Attention, dense or by block list, forward and backward, in two forms: on tensor cores, and
//! without for devices and shapes that have none ([`launches`] tells which ran).

pub(crate) mod attention;
mod backend;
pub(crate) mod conv;
pub(crate) mod launch;
mod norm;
mod packed;
mod permute;
pub(crate) mod runtime;
pub(crate) mod watch;

pub use attention::{Launches, launches};
