//! The layer norm.

use burn::tensor::{DType, Tensor};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use longcat_kernels::{KernelBackend, layer_norm};

use super::numbers::{Leaf, assert_close, assert_same, gradients, numbers, tensor};
use super::{ROWS, TABLES};

pub fn check_layer_norm<B: KernelBackend>(rows: usize, groups: usize, width: usize) {
    let (x, weight) = (numbers(rows * width, 1), numbers(groups * width, 2));
    let bias = numbers(groups * width, 3);
    let mut expected = Vec::new();
    for (r, row) in x.chunks(width).enumerate() {
        let group = r / (rows / groups) * width;
        let count = width as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let deviation = |v: &f32| f64::from(*v) - mean;
        let variance = row.iter().map(|v| deviation(v).powi(2)).sum::<f64>() / count;
        expected.extend(row.iter().enumerate().map(|(c, v)| {
            deviation(v) / (variance + 1e-6).sqrt() * f64::from(weight[group + c])
                + f64::from(bias[group + c])
        }));
    }
    let y = layer_norm(
        tensor::<B, 3>(&x, [1, rows, width]),
        tensor(&weight, [groups, width]),
        tensor(&bias, [groups, width]),
        1e-6,
    );
    assert_eq!(y.dims(), [1, rows, width]);
    assert_close(y, &expected, 2e-5);
}

/// Gradients of the input.
pub fn check_gradients<B: KernelBackend>() {
    for (rows, groups, width) in ROWS {
        let (a, b) = (numbers(rows * width, 1), numbers(rows * width, 2));
        let (table, other) = (numbers(groups * width, 3), numbers(groups * width, 4));
        let spread = |t: &[f32]| {
            tensor::<Autodiff<Flex>, 3>(t, [groups, 1, width])
                .expand([groups, rows / groups, width])
                .reshape([rows, width])
        };
        let shape = [rows, width];

        // The second leaf is added so that it has a gradient too.
        let got = gradients::<B, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            let [weight, bias] = [&table, &other].map(|t| tensor(t, [groups, width]));
            layer_norm(x, weight, bias, 1e-6) + y
        });
        let want = gradients::<Flex, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            let x = x.clone() - x.mean_dim(1);
            let deviation = (x.clone().powi_scalar(2).mean_dim(1) + 1e-6).sqrt();
            x / deviation * spread(&table) + spread(&other) + y
        });
        assert_same("layer_norm", &got, &want);
    }
}

/// Gradients of weight and bias, which are trained with whole models.
pub fn check_table_gradients<B: KernelBackend>() {
    for (rows, groups, width) in TABLES {
        let a = numbers(rows * width, 1);
        let (table, other) = (numbers(groups * width, 3), numbers(groups * width, 4));
        let spread = |t: Leaf<Flex, 2>| {
            t.reshape([groups, 1, width])
                .expand([groups, rows / groups, width])
                .reshape([rows, width])
        };
        let shape = [rows, width];
        let tables = [groups, width];

        let got = gradients::<B, 2, 2>([&table, &other].map(|t| tensor(t, tables)), |[w, b]| {
            layer_norm(tensor::<_, 2>(&a, shape), w, b, 1e-6)
        });
        let want =
            gradients::<Flex, 2, 2>([&table, &other].map(|t| tensor(t, tables)), |[w, b]| {
                let x = tensor::<Autodiff<Flex>, 2>(&a, shape);
                let x = x.clone() - x.mean_dim(1);
                let deviation = (x.clone().powi_scalar(2).mean_dim(1) + 1e-6).sqrt();
                x / deviation * spread(w) + spread(b)
            });
        assert_same("tables of layer_norm", &got, &want);
    }
}

/// The dtype of the result is that of the input, and the island around it is f32.
#[test]
fn bf16_in_bf16_out() {
    let (x, weight) = (numbers(4 * 64, 15), numbers(64, 16));
    let x = tensor::<Flex, 2>(&x, [4, 64]).cast(DType::BF16);
    let (weight, bias) = (
        tensor(&weight, [1, 64]),
        Tensor::zeros([1, 64], &Default::default()),
    );
    let wide = layer_norm(
        x.clone().cast(DType::F32),
        weight.clone(),
        bias.clone(),
        1e-6,
    );
    let narrow = layer_norm(x, weight, bias, 1e-6);
    assert_eq!(narrow.dtype(), DType::BF16);
    let expected = wide.cast(DType::BF16).cast(DType::F32).into_data();
    let expected: Vec<f64> = expected.iter::<f64>().collect();
    assert_close(narrow, &expected, 1e-9);
}
