//! Classifier-free guidance with an optimised scale (CFG-Zero*, arXiv:2503.18886).

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Keeps the division finite where the unconditional prediction vanishes.
const EPSILON: f64 = 1e-8;

/// `uncond·st + guidance·(cond − uncond·st)` with `st = ⟨cond, uncond⟩ / (‖uncond‖² + 1e-8)`, per
/// sample over all other dimensions. Both are `[B, C, T, H, W]`.
pub fn cfg_zero<B: Backend>(
    cond: Tensor<B, 5>,
    uncond: Tensor<B, 5>,
    guidance: f64,
) -> Tensor<B, 5> {
    let [b, c, t, h, w] = cond.dims();
    let n = c * t * h * w;
    let flat = |x: &Tensor<B, 5>| x.clone().reshape([b, n]);
    let dot = (flat(&cond) * flat(&uncond)).sum_dim(1);
    let norm = flat(&uncond).square().sum_dim(1) + EPSILON;
    let uncond = uncond * (dot / norm).reshape([b, 1, 1, 1, 1]);
    uncond.clone() + (cond - uncond) * guidance
}
