//! The laboratory in which the built-in model was made: what its training adds to that of `longcat-train`, and the
//! clips of `longcat-shapes` that it learns from and is judged by.

mod train;

pub use longcat_shapes::*;
pub use train::{Laboratory, MiniatureConfig, VaeConfig, run};
