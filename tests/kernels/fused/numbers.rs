//! Inputs, and how results are compared.

use burn::tensor::{DType, Shape, Tensor, TensorData, backend::Backend};
use burn_autodiff::Autodiff;
use longcat_kernels::KernelBackend;

/// Numbers that repeat nowhere nearby, in (-2, 2).
pub fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| 2.0 * (((i + 1) * (seed * 2 + 7)) as f32 * 0.618_034).sin())
        .collect()
}

pub fn tensor<B: Backend, const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<B, D> {
    let data = TensorData::new(values.to_vec(), Shape::from(shape));
    Tensor::from_data(data, (&B::Device::default(), DType::F32))
}

pub fn assert_close<B: Backend, const D: usize>(
    actual: Tensor<B, D>,
    expected: &[f64],
    bound: f64,
) {
    let actual = actual.cast(DType::F32).into_data().to_vec::<f32>().unwrap();
    assert_eq!(actual.len(), expected.len());
    let worst = actual
        .iter()
        .zip(expected)
        .map(|(a, e)| (f64::from(*a) - e).abs() / e.abs().max(1.0))
        .fold(0.0, f64::max);
    assert!(worst < bound, "off by {worst:e}");
}

pub type Leaf<B, const D: usize> = Tensor<Autodiff<B>, D>;

/// Gradients of `Σ op(leaves) · weights`, one after another.
pub fn gradients<B: KernelBackend, const D: usize, const E: usize>(
    leaves: [Leaf<B, D>; 2],
    op: impl FnOnce([Leaf<B, D>; 2]) -> Leaf<B, E>,
) -> Vec<f64> {
    let leaves = leaves.map(Tensor::require_grad);
    let out = op(leaves.clone());
    let weights = tensor(&numbers(out.shape().num_elements(), 20), out.dims());
    let found = (out * weights).sum().backward();
    leaves
        .iter()
        .flat_map(|leaf| {
            let gradient = leaf.grad(&found).unwrap().into_data();
            gradient.iter::<f64>().collect::<Vec<_>>()
        })
        .collect()
}

pub fn assert_same(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let size = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = size(&mut got.iter().zip(want).map(|(a, b)| a - b));
    let error = difference / size(&mut want.iter().copied());
    assert!(error < 1e-5, "{name}: {error:e}");
}
