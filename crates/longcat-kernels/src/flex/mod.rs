//! Kernels for the CPU, beside Burn's own in [`Flex`](burn_flex::Flex).
//!
//! Dense attention has a kernel of its own: Burn's runs on one thread and gives no log-sum-exp.
//! So have, in f32, a convolution's patches, the norms, gates and the split into heads. Everything
//! else is the portable body.

mod attention;
mod attention_backward;
mod backend;
mod conv3d;
mod elementwise;
mod exp2;
mod heads;
mod norm;
mod rows;

use burn::tensor::DType;
use burn_flex::FlexTensor;

fn is_f32(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
}

/// The tensors, contiguous, if all are f32.
fn all_f32<const N: usize>(tensors: [&FlexTensor; N]) -> Option<[FlexTensor; N]> {
    let all = tensors.iter().all(|tensor| is_f32(tensor));
    all.then(|| tensors.map(FlexTensor::to_contiguous))
}
