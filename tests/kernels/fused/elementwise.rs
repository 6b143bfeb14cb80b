//! Gated residuals and gated units.

use burn_autodiff::Autodiff;
use burn_flex::Flex;
use longcat_kernels::{KernelBackend, gated_residual, silu_mul};

use super::numbers::{Leaf, assert_close, assert_same, gradients, numbers, tensor};
use super::{ROWS, TABLES};

pub fn check_gated_residual<B: KernelBackend>(rows: usize, groups: usize, width: usize) {
    let (x, y) = (numbers(rows * width, 4), numbers(rows * width, 5));
    let gate = numbers(groups * width, 6);
    let expected: Vec<f64> = (0..rows * width)
        .map(|i| {
            let group = i / width / (rows / groups) * width;
            f64::from(x[i]) + f64::from(gate[group + i % width]) * f64::from(y[i])
        })
        .collect();
    let out = gated_residual(
        tensor::<B, 2>(&x, [rows, width]),
        tensor(&y, [rows, width]),
        tensor(&gate, [groups, width]),
    );
    assert_close(out, &expected, 1e-6);
}

pub fn check_silu_mul<B: KernelBackend>(count: usize) {
    let (a, b) = (numbers(count, 7), numbers(count, 8));
    let expected: Vec<f64> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| f64::from(*a) / (1.0 + (-f64::from(*a)).exp()) * f64::from(*b))
        .collect();
    let out = silu_mul(tensor::<B, 2>(&a, [1, count]), tensor(&b, [1, count]));
    assert_close(out, &expected, 1e-5);
}

/// Gradients of the inputs.
pub fn check_gradients<B: KernelBackend>() {
    for (rows, groups, width) in ROWS {
        let (a, b) = (numbers(rows * width, 1), numbers(rows * width, 2));
        let table = numbers(groups * width, 3);
        let spread = |t: &[f32]| {
            tensor::<Autodiff<Flex>, 3>(t, [groups, 1, width])
                .expand([groups, rows / groups, width])
                .reshape([rows, width])
        };
        let shape = [rows, width];

        let got = gradients::<B, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            gated_residual(x, y, tensor(&table, [groups, width]))
        });
        let want = gradients::<Flex, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            x + y * spread(&table)
        });
        assert_same("gated_residual", &got, &want);

        let got = gradients::<B, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            silu_mul(x, y)
        });
        let want = gradients::<Flex, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            x.clone() / ((-x).exp() + 1.0) * y
        });
        assert_same("silu_mul", &got, &want);

        // A gradient takes the place of its input only where nothing else needs the input.
        let got = gradients::<B, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            silu_mul(x.clone(), y.clone()) * silu_mul(y.clone(), x.clone()) * y
        });
        let want = gradients::<Flex, 2, 2>([tensor(&a, shape), tensor(&b, shape)], |[x, y]| {
            let silu = |x: Leaf<Flex, 2>| x.clone() / ((-x).exp() + 1.0);
            silu(x.clone()) * y.clone() * silu(y.clone()) * x * y
        });
        assert_same("silu_mul twice", &got, &want);
    }
}

/// Gradients of the gates, which are trained with whole models.
pub fn check_table_gradients<B: KernelBackend>() {
    for (rows, groups, width) in TABLES {
        let (a, b) = (numbers(rows * width, 1), numbers(rows * width, 2));
        let (table, other) = (numbers(groups * width, 3), numbers(groups * width, 4));
        let spread = |t: Leaf<Flex, 2>| {
            t.reshape([groups, 1, width])
                .expand([groups, rows / groups, width])
                .reshape([rows, width])
        };
        let shape = [rows, width];
        let tables = [groups, width];

        // The second gate serves a second residual on top of the first.
        let got = gradients::<B, 2, 2>([&table, &other].map(|t| tensor(t, tables)), |[g, h]| {
            let x = gated_residual(tensor(&a, shape), tensor(&b, shape), g);
            gated_residual(x.clone(), x, h)
        });
        let want =
            gradients::<Flex, 2, 2>([&table, &other].map(|t| tensor(t, tables)), |[g, h]| {
                let x = tensor::<_, 2>(&a, shape) + spread(g) * tensor(&b, shape);
                x.clone() + spread(h) * x
            });
        assert_same("gates", &got, &want);
    }
}

/// `d/dx Σ silu(x) · b` by its closed form, through the portable body.
#[test]
fn gradients_flow() {
    let (a, b) = (numbers(40, 13), numbers(40, 14));
    let x = tensor::<Autodiff<Flex>, 2>(&a, [1, 40]).require_grad();
    let y = silu_mul(x.clone(), tensor(&b, [1, 40])).sum();
    let expected: Vec<f64> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| {
            let sigmoid = 1.0 / (1.0 + (-f64::from(*a)).exp());
            (sigmoid + f64::from(*a) * sigmoid * (1.0 - sigmoid)) * f64::from(*b)
        })
        .collect();
    assert_close(x.grad(&y.backward()).unwrap(), &expected, 1e-5);
}
