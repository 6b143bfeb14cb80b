//! Kernels for the CPU, beside Burn's own in [`Flex`](burn_flex::Flex).
//!
//! Dense attention has a kernel of its own: Burn's runs on one thread and gives no log-sum-exp.
//! So have, in f32, linear layers, convolutions, the norms, gates and the split into heads.
//! Everything else is the portable body.

mod attention;
mod attention_backward;
mod backend;
mod conv3d;
mod elementwise;
mod exp2;
mod heads;
mod linear;
mod norm;
mod rows;

use burn::tensor::DType;
use burn_flex::FlexTensor;

fn is_f32(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
}

/// The tensors, contiguous, if all are f32; else as they came. A tensor that nobody else holds is then the
/// kernel's alone.
fn all_f32<const N: usize>(tensors: [FlexTensor; N]) -> Result<[FlexTensor; N], [FlexTensor; N]> {
    match tensors.iter().all(is_f32) {
        true => Ok(tensors.map(|tensor| tensor.to_contiguous())),
        false => Err(tensors),
    }
}
