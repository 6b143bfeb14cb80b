//! Tests of this crate, on the CPU.
#![allow(clippy::unwrap_used)]

mod faults;
mod golden;
mod gradients;
mod habits;
mod long_clips;
mod objectives;
mod ranks;
mod runs;
mod workshop;
