//! What runs on CUDA beside cubecl: libraries and kernels in CUDA C++, on cubecl's devices and streams.

pub(crate) mod cublas;
pub(crate) mod cudnn;
mod engines;
pub(crate) mod fp8;
pub(crate) mod hopper;
mod library;
pub(crate) mod memory;
pub(crate) mod page_lock;
pub(crate) mod peers;
pub(crate) mod prefetch;
pub(crate) mod program;
pub(crate) mod program_cache;
pub(crate) mod ranks;
mod staging;
mod stream;
mod theirs;
pub(crate) mod transfers;
pub(crate) mod upload;

use std::any::Any;

/// What is of CUDA's runtime as what it is of the runtime that a generic function was called for, and back; `None`
/// where that is another one.
fn cast<Given: 'static, Wanted: 'static>(value: Given) -> Option<Wanted> {
    (&mut Some(value) as &mut dyn Any)
        .downcast_mut::<Option<Wanted>>()?
        .take()
}
