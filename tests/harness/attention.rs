//! Block-sparse attention against the official code.

use burn::backend::Autodiff;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::bsa::{block_mask, bsa_attention_with_lse};
use longcat_kernels::{BsaParams, EmptySelection, KernelBackend};

use crate::Case;

/// Mask, output, log-sum-exp and gradients of block-sparse attention.
pub(crate) fn bsa<B: KernelBackend>(case: &mut Case, device: &B::Device) {
    let shape =
        |name: &str| -> [usize; 3] { serde_json::from_value(case.param(name).clone()).unwrap() };
    let (grid_q, grid_k) = (shape("latent_shape_q"), shape("latent_shape_k"));
    let params = BsaParams {
        sparsity: case.param("sparsity").as_f64(),
        cdf_threshold: case.param("cdf_threshold").as_f64(),
        chunk_3d_shape_q: shape("chunk_3d_shape_q"),
        chunk_3d_shape_k: shape("chunk_3d_shape_k"),
        empty_selection: EmptySelection::Zero,
    };
    let q: Tensor<B, 4> = case.input("q", device);
    let k: Tensor<B, 4> = case.input("k", device);
    let mask = block_mask(q.clone(), k.clone(), grid_q, grid_k, &params).into_data();
    let mask = TensorData::new(mask.iter::<bool>().collect::<Vec<_>>(), mask.shape.clone());
    case.check("block_mask", mask);
    // Without gradients, and with them.
    let v: Tensor<B, 4> = case.input("v", device);
    let (out, lse) = bsa_attention_with_lse(q, k, v, grid_q, grid_k, &params);
    case.check_tensor("out", out);
    // Where nothing is selected the official code has no log-sum-exp.
    if case.expected_names().iter().any(|name| name == "lse") {
        case.check_tensor("lse", lse);
    }

    let leaf = |name: &str| case.input::<Autodiff<B>, 4>(name, device).require_grad();
    let (q, k, v) = (leaf("q"), leaf("k"), leaf("v"));
    let d_out: Tensor<Autodiff<B>, 4> = case.input("d_out", device);
    let (q1, k1, v1) = (q.clone(), k.clone(), v.clone());
    let (out, _) = bsa_attention_with_lse(q1, k1, v1, grid_q, grid_k, &params);
    let grads = (out * d_out).sum().backward();
    for (name, leaf) in [("dq", q), ("dk", k), ("dv", v)] {
        match leaf.grad(&grads) {
            Some(grad) => case.check_tensor(name, grad.cast(DType::F32)),
            None => case.fail(format!("no gradient {name}")),
        }
    }
}
