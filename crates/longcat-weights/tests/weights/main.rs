//! Tests of the whole crate through its public interface.
#![allow(clippy::unwrap_used, missing_docs)]

mod damaged;
mod packed;
mod quantize;
mod strict_loading;
