//! Checks the CUDA kernels. `cargo xtask bench` times them.
//!
//! `cuda_check attention` compares with f32 references, `attention_fp8` with the bf16 kernels, `fuzz [count [seed]]` with the portable body
//! on random shapes, `linear` with f64 sums, `conv` with f32 convolutions, `layout` with the portable
//! body, `upload` with what was sent, `packed` with what the host unpacks, bit by bit, `fp8` with f64 sums of
//! the rounded numbers, `ranks` sums over all visible GPUs through NCCL; `small` runs each attention kernel
//! once (for compute-sanitizer).
//! Exits with code 1 where a comparison fails.

mod attention;
mod attention_fp8;
mod conv;
mod fp8;
mod fuzz;
mod layout;
mod linear;
mod packed;
mod random;
mod ranks;
mod upload;

use burn::tensor::{Tensor, TensorPrimitive};
use burn_cubecl::CubeBackend;
use cubecl::cuda::CudaRuntime;

/// The backend under test, without the fusion wrapper.
type Gpu = CubeBackend<CudaRuntime, f32, i32, u8>;
type Device = <Gpu as burn::tensor::backend::BackendTypes>::Device;

/// Largest relative L2 error of bf16 results against f32 references.
const TOLERANCE: f64 = 1e-2;

/// `||got - want|| / ||want||`, in f64 on the host.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    error_above(got, want, 0.0)
}

/// The same over `floor` where `want` is smaller; `||got - want||` where both are zero.
fn error_above(got: &[f32], want: &[f32], floor: f64) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: Vec<f32> = got.iter().zip(want).map(|(got, want)| got - want).collect();
    match norm(want).max(floor) {
        0.0 => norm(&difference),
        size => norm(&difference) / size,
    }
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn float<B: burn::tensor::backend::Backend, const D: usize>(
    primitive: B::FloatTensorPrimitive,
) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn raw<B: burn::tensor::backend::Backend, const D: usize>(
    tensor: Tensor<B, D>,
) -> B::FloatTensorPrimitive {
    tensor.into_primitive().tensor()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let device = Device::default();
    let ok = match arguments.next().as_deref() {
        Some("attention") => attention::run(&device),
        Some("attention_fp8") => attention_fp8::run(&device),
        Some("fuzz") => {
            let mut number = |default: usize| {
                let argument = arguments.next();
                argument.and_then(|n| n.parse().ok()).unwrap_or(default)
            };
            let (count, seed) = (number(200), number(0));
            fuzz::run(&device, count, seed as u64)
        }
        Some("linear") => linear::run(&device),
        Some("conv") => conv::run(&device),
        Some("layout") => layout::run(&device),
        Some("upload") => upload::run(&device),
        Some("packed") => packed::run(&device),
        Some("fp8") => fp8::run(&device),
        Some("ranks") => ranks::run(),
        Some("small") => fuzz::small(&device),
        _ => {
            eprintln!(
                "usage: cuda_check attention | attention_fp8 | fuzz [count [seed]] | linear | conv | layout | \
                 upload | packed | fp8 | ranks | small"
            );
            std::process::exit(2);
        }
    };
    println!("{:?}", longcat_kernels::cube::launches());
    std::process::exit(i32::from(!ok));
}
