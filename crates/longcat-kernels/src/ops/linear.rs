//! Tensor-level linear layer.

use burn::tensor::{Tensor, TensorPrimitive};

use crate::KernelBackend;

/// `x · weightᵀ + bias`.
///
/// `x` is `[..., in]` with `D >= 2`, `weight` `[out, in]`, `bias` `[out]`, all of one float dtype.
/// Under autodiff, only the gradients of tracked inputs are computed: a frozen weight never has a
/// gradient of its size formed.
///
/// # Panics
/// If the shapes do not fit, naming them.
pub fn linear<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let [d_out, d_in] = weight.dims();
    assert!(
        D >= 2 && x.dims()[D - 1] == d_in,
        "linear: input {:?} does not end in the {d_in} columns of the weight [{d_out}, {d_in}]",
        x.dims(),
    );
    if let Some(bias) = &bias {
        assert_eq!(
            bias.dims(),
            [d_out],
            "linear: bias of a weight [{d_out}, {d_in}]"
        );
    }
    Tensor::from_primitive(TensorPrimitive::Float(B::linear_forward(
        x.into_primitive().tensor(),
        weight.into_primitive().tensor(),
        bias.map(|bias| bias.into_primitive().tensor()),
    )))
}

/// `a · bᵀ` over the last two dimensions: `[B, H, M, D]` and `[B, H, N, D]` of one float dtype to
/// `[B, H, M, N]`. Products of f32 are f32 throughout, also where Burn's own would take TF32.
pub fn matmul_nt<B: KernelBackend>(a: Tensor<B, 4>, b: Tensor<B, 4>) -> Tensor<B, 4> {
    Tensor::from_primitive(TensorPrimitive::Float(B::matmul_nt_forward(
        a.into_primitive().tensor(),
        b.into_primitive().tensor(),
    )))
}
