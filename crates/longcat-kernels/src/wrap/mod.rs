//! [`KernelBackend`](crate::KernelBackend) for backends that wrap another.

mod autodiff;
#[cfg(feature = "cubecl")]
mod fusion;
