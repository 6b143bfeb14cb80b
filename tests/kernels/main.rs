//! The kernels of `longcat-kernels` against independent references, on every compiled backend.
//!
//! The crate itself is optimised in full for tests; a program of its own package would be, too, which takes
//! minutes for nothing.
#![allow(clippy::unwrap_used)]

// Generic code that the runtime has compiled is not compiled again here: Burn's kernels for wgpu above all.
use longcat_runtime as _;

#[cfg(feature = "cpu")]
mod conv;
#[cfg(feature = "cpu")]
mod fused;
#[cfg(feature = "cpu")]
mod gathering;
#[cfg(feature = "cpu")]
mod golden;
#[cfg(feature = "cpu")]
mod memory;
#[cfg(feature = "cpu")]
mod properties;
#[cfg(feature = "cpu")]
mod support;
#[cfg(feature = "wgpu")]
mod uploads;
#[cfg(all(feature = "cpu", feature = "wgpu"))]
mod wgpu;
