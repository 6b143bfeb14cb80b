//! Tests of this crate, on the CPU.
#![allow(clippy::unwrap_used)]

mod golden;
mod gradients;
mod objectives;
mod runs;
