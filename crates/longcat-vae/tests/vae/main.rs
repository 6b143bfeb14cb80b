//! Tests of the whole crate: configs, cuts in time and in space, gradients. Memory is measured by a
//! program of its own; parity with the reference by the workspace's `tests/parity`.
#![allow(clippy::unwrap_used, missing_docs)]

mod chunks;
mod config;
mod draws;
mod golden;
mod tiling;
mod training;
