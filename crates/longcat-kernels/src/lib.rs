//! Attention, block-sparse attention and linear kernels for Burn backends.
//!
//! [`KernelBackend`] is the one trait the models ask of a backend beyond Burn's own. All its
//! methods have portable bodies, so that `impl KernelBackend for MyBackend {}` is enough; backends
//! with faster kernels override them. Models call the tensor-level functions: [`linear`],
//! [`attention`], [`bsa_attention`].

mod attention;
mod autodiff;
mod backend;
mod blocks;
pub mod bsa;
#[cfg(feature = "cubecl")]
pub mod cube;
#[cfg(feature = "cpu")]
mod flex;
#[cfg(feature = "cubecl")]
mod fusion;
mod linear;
pub mod portable;

pub use attention::{attention, attention_with_lse};
pub use backend::{BlockRule, CdfRule, KernelBackend};
pub use blocks::{BlockList, TransposedBlocks};
pub use bsa::{BsaParams, EmptySelection, bsa_attention};
pub use linear::linear;
