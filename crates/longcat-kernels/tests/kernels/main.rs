//! The kernels against independent references, in one program: every backend that it instantiates
//! takes minutes to compile.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "cpu")]
mod conv;
mod docs;
#[cfg(feature = "cpu")]
mod fused;
#[cfg(feature = "cpu")]
mod golden;
#[cfg(feature = "cpu")]
mod memory;
#[cfg(feature = "cpu")]
mod properties;
#[cfg(feature = "cpu")]
mod support;
#[cfg(all(feature = "cpu", feature = "wgpu"))]
mod wgpu;
