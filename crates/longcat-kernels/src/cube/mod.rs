//! Kernels for the cubecl runtimes (CUDA, wgpu).

mod backend;
