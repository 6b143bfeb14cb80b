//! Kernels for the cubecl runtimes (CUDA, wgpu).
//!
//! Attention, dense or by block list, forward and backward, in two forms: on tensor cores, and
//! without for devices and shapes that have none ([`launches`] tells which ran). [`launch`] chooses.

mod attention;
mod backend;
mod backward_mma;
mod forward_mma;
#[cfg(feature = "cuda")]
mod hopper;
mod launch;
mod lists;
mod mma;
mod plain;
mod select;

pub use launch::{Launches, launches};
