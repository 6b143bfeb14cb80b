//! The fused operations against straightforward loops in f64: the portable bodies on the CPU, and
//! the kernels where a wgpu device is asked for with the feature.

use burn::tensor::{DType, Shape, Tensor, TensorData, TensorPrimitive, backend::Backend};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use longcat_kernels::{
    KernelBackend, Rotation, add_low_rank, gated_residual, layer_norm, silu_mul, split_heads,
};

/// Numbers that repeat nowhere nearby, in (-2, 2).
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| 2.0 * (((i + 1) * (seed * 2 + 7)) as f32 * 0.618_034).sin())
        .collect()
}

fn tensor<B: Backend, const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<B, D> {
    let data = TensorData::new(values.to_vec(), Shape::from(shape));
    Tensor::from_data(data, (&B::Device::default(), DType::F32))
}

fn assert_close<B: Backend, const D: usize>(actual: Tensor<B, D>, expected: &[f64], bound: f64) {
    let actual = actual.cast(DType::F32).into_data().to_vec::<f32>().unwrap();
    assert_eq!(actual.len(), expected.len());
    let worst = actual
        .iter()
        .zip(expected)
        .map(|(a, e)| (f64::from(*a) - e).abs() / e.abs().max(1.0))
        .fold(0.0, f64::max);
    assert!(worst < bound, "off by {worst:e}");
}

fn check_layer_norm<B: KernelBackend>(rows: usize, groups: usize, width: usize) {
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

fn check_gated_residual<B: KernelBackend>(rows: usize, groups: usize, width: usize) {
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

fn check_silu_mul<B: KernelBackend>(count: usize) {
    let (a, b) = (numbers(count, 7), numbers(count, 8));
    let expected: Vec<f64> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| f64::from(*a) / (1.0 + (-f64::from(*a)).exp()) * f64::from(*b))
        .collect();
    let out = silu_mul(tensor::<B, 2>(&a, [1, count]), tensor(&b, [1, count]));
    assert_close(out, &expected, 1e-5);
}

fn check_split_heads<B: KernelBackend>(heads: usize, width: usize, normed: bool, rotated: bool) {
    let (batch, tokens, parts, part) = (2, 5, 3, 1);
    let x = numbers(batch * tokens * parts * heads * width, 9);
    let weight = numbers(width, 10);
    let (cos, sin) = (
        numbers(tokens * width / 2, 11),
        numbers(tokens * width / 2, 12),
    );
    let mut expected = Vec::new();
    for b in 0..batch {
        for h in 0..heads {
            for t in 0..tokens {
                let start = (((b * tokens + t) * parts + part) * heads + h) * width;
                let mut row: Vec<f64> = x[start..][..width].iter().map(|v| f64::from(*v)).collect();
                if normed {
                    let mean = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
                    for (v, w) in row.iter_mut().zip(&weight) {
                        *v *= f64::from(*w) / (mean + 1e-6).sqrt();
                    }
                }
                if rotated {
                    for (p, pair) in row.chunks_mut(2).enumerate() {
                        let at = t * width / 2 + p;
                        let (c, s) = (f64::from(cos[at]), f64::from(sin[at]));
                        (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s);
                    }
                }
                expected.extend(row);
            }
        }
    }
    let out = split_heads(
        tensor::<B, 5>(&x, [batch, tokens, parts, heads, width]),
        part,
        normed.then(|| (tensor(&weight, [width]), 1e-6)),
        rotated.then(|| Rotation {
            cos: tensor(&cos, [tokens, width / 2]),
            sin: tensor(&sin, [tokens, width / 2]),
        }),
    );
    assert_eq!(out.dims(), [batch, heads, tokens, width]);
    assert_close(out, &expected, 2e-5);
}

fn check_softmax<B: KernelBackend>(rows: usize, width: usize, scale: f64) {
    let scores: Vec<f32> = numbers(rows * width, 15).iter().map(|s| 20.0 * s).collect();
    let (mut expected, mut logarithms) = (Vec::new(), Vec::new());
    for row in scores.chunks(width) {
        let sum: f64 = row.iter().map(|s| (f64::from(*s) * scale).exp()).sum();
        expected.extend(row.iter().map(|s| (f64::from(*s) * scale).exp() / sum));
        logarithms.push(sum.ln());
    }
    let scores = tensor::<B, 4>(&scores, [1, 1, rows, width]);
    let scores = scores.into_primitive().tensor();
    let (weights, lse) = B::softmax_with_lse(scores, scale);
    let float = TensorPrimitive::Float;
    assert_close(
        Tensor::<B, 4>::from_primitive(float(weights)),
        &expected,
        1e-5,
    );
    assert_close(
        Tensor::<B, 3>::from_primitive(float(lse)),
        &logarithms,
        1e-5,
    );
}

fn check_column_sums<B: KernelBackend>(rows: usize, width: usize) {
    let x = numbers(rows * width, 16);
    let mut expected = vec![0.0; width];
    for row in x.chunks(width) {
        for (sum, x) in expected.iter_mut().zip(row) {
            *sum += f64::from(*x);
        }
    }
    let x = tensor::<B, 2>(&x, [rows, width]).into_primitive().tensor();
    let sums = TensorPrimitive::Float(B::column_sums(x));
    assert_close(Tensor::<B, 1>::from_primitive(sums), &expected, 1e-4);
}

fn check_block_sums<B: KernelBackend>(blocks: usize, block: usize, width: usize) {
    let x = numbers(blocks * block * width, 17);
    let mut expected = vec![0.0; blocks * width];
    for (i, x) in x.iter().enumerate() {
        expected[i / (block * width) * width + i % width] += f64::from(*x);
    }
    let x = tensor::<B, 2>(&x, [blocks * block, width])
        .into_primitive()
        .tensor();
    let sums = TensorPrimitive::Float(B::block_sums(x, block));
    assert_close(Tensor::<B, 2>::from_primitive(sums), &expected, 1e-5);
}

/// Every value is where its indices say, for an input that is a view with gaps, too.
fn check_permuted<B: KernelBackend>(shape: [usize; 5], axes: [usize; 5]) {
    let index = |place: usize, dims: [usize; 5]| {
        let mut rest = place;
        let mut index = [0; 5];
        for axis in (0..5).rev() {
            (index[axis], rest) = (rest % dims[axis], rest / dims[axis]);
        }
        index
    };
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| i as f32)
        .collect();
    let whole = tensor::<B, 5>(&values, shape);
    let half = shape[1].div_ceil(2);
    for x in [whole.clone(), whole.narrow(1, 0, half)] {
        let dims = x.dims();
        let out_dims = axes.map(|axis| dims[axis]);
        let expected: Vec<f64> = (0..dims.iter().product())
            .map(|place| {
                let out = index(place, out_dims);
                let mut from = [0; 5];
                axes.iter().zip(out).for_each(|(axis, i)| from[*axis] = i);
                let at = from
                    .iter()
                    .zip(shape)
                    .fold(0, |at, (i, size)| at * size + i);
                at as f64
            })
            .collect();
        let x = x.into_primitive().tensor();
        let out = Tensor::<B, 5>::from_primitive(TensorPrimitive::Float(B::permute(x, &axes)));
        assert_eq!(out.dims(), out_dims);
        assert_close(out, &expected, 1e-12);
    }
}

/// Numbers and widths of heads: those that fill planes, those that leave units idle, and those that
/// leave units idle only in their last round, be planes of 8 units or of 32.
const HEADS: [(usize, usize); 10] = [
    (4, 128),
    (1, 128),
    (3, 64),
    (2, 24),
    (6, 32),
    (4, 48),
    (3, 20),
    (4, 20),
    (2, 36),
    (2, 140),
];

/// Widths that planes divide and widths that they do not; one group, and one per frame.
fn check_all<B: KernelBackend>() {
    for (rows, groups, width) in [
        (6, 3, 256),
        (7, 1, 512),
        (32, 2, 128),
        (8, 2, 48),
        (3, 3, 10),
    ] {
        check_layer_norm::<B>(rows, groups, width);
        check_gated_residual::<B>(rows, groups, width);
    }
    for count in [8192, 1000, 77] {
        check_silu_mul::<B>(count);
    }
    for (rows, width) in [(3, 1), (5, 600), (2, 2049)] {
        check_softmax::<B>(rows, width, 0.3);
    }
    for (rows, width) in [(1, 5), (129, 16), (40_000, 3)] {
        check_column_sums::<B>(rows, width);
    }
    for (blocks, block, width) in [(1, 1, 5), (6, 64, 16), (35, 8, 128)] {
        check_block_sums::<B>(blocks, block, width);
    }
    for shape in [[2, 3, 4, 5, 8], [1, 6, 1, 2, 12], [3, 2, 2, 2, 5]] {
        for axes in [
            [0, 2, 1, 3, 4],
            [3, 2, 1, 0, 4],
            [1, 0, 3, 2, 4],
            [0, 1, 2, 4, 3],
        ] {
            check_permuted::<B>(shape, axes);
        }
    }
    for (heads, width) in HEADS {
        for (normed, rotated) in [(true, true), (true, false), (false, true), (false, false)] {
            check_split_heads::<B>(heads, width, normed, rotated);
        }
    }
}

type Leaf<B, const D: usize> = Tensor<Autodiff<B>, D>;

/// Gradients of `Σ op(leaves) · weights`, one after another.
fn gradients<B: KernelBackend, const D: usize, const E: usize>(
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

fn assert_same(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let size = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = size(&mut got.iter().zip(want).map(|(a, b)| a - b));
    let error = difference / size(&mut want.iter().copied());
    assert!(error < 1e-5, "{name}: {error:e}");
}

/// Gradients of the tables (weights, biases, gates), which are trained with whole models.
fn check_table_gradients<B: KernelBackend>() {
    for (rows, groups, width) in [
        (6, 3, 256),
        (7, 1, 512),
        (8, 2, 48),
        (3, 3, 10),
        (402, 2, 16),
        (67, 1, 8),
    ] {
        let (a, b) = (numbers(rows * width, 1), numbers(rows * width, 2));
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

/// Gradients of the weights of two norms, with a rotation after the first.
fn check_head_norm_gradients<B: KernelBackend>(heads: usize, width: usize) {
    let (batch, tokens, parts) = (2, 5, 3);
    let shape = [batch, tokens, parts, heads, width];
    let x = numbers(shape.iter().product(), 5);
    let (first, second) = (numbers(width, 6), numbers(width, 8));
    let angles = numbers(tokens * width / 2, 7);
    let table = |of: fn(f32) -> f32| -> Vec<f32> { angles.iter().map(|a| of(*a)).collect() };
    let (cos, sin) = (table(f32::cos), table(f32::sin));
    let got = gradients::<B, 1, 4>([&first, &second].map(|w| tensor(w, [width])), |[v, w]| {
        let rotation = Rotation {
            cos: tensor(&cos, [tokens, width / 2]),
            sin: tensor(&sin, [tokens, width / 2]),
        };
        split_heads(tensor(&x, shape), 0, Some((v, 1e-6)), Some(rotation))
            + split_heads(tensor(&x, shape), 2, Some((w, 1e-6)), None)
    });
    let want = gradients::<Flex, 1, 4>([&first, &second].map(|w| tensor(w, [width])), |[v, w]| {
        let normed = |part: usize, weight: Leaf<Flex, 1>| -> Leaf<Flex, 4> {
            let x = tensor::<Autodiff<Flex>, 5>(&x, shape).narrow(2, part, 1);
            let x = x.squeeze_dim::<4>(2).swap_dims(1, 2);
            let root = (x.clone().powi_scalar(2).mean_dim(3) + 1e-6).sqrt();
            x / root * weight.reshape([1, 1, 1, width])
        };
        let pairs = normed(0, v).reshape([batch, heads, tokens, width / 2, 2]);
        let (even, odd) = (pairs.clone().narrow(4, 0, 1), pairs.narrow(4, 1, 1));
        let table = |t: &[f32]| tensor(t, [1, 1, tokens, width / 2, 1]);
        let turned = vec![
            even.clone() * table(&cos) - odd.clone() * table(&sin),
            odd * table(&cos) + even * table(&sin),
        ];
        Tensor::cat(turned, 4).reshape([batch, heads, tokens, width]) + normed(2, w)
    });
    assert_same(
        &format!("weights of norms of {heads} heads of {width}"),
        &got,
        &want,
    );
}

/// The hand-written backward steps against Burn's autodiff of the same formulas on the CPU.
fn check_gradients<B: KernelBackend>() {
    check_table_gradients::<B>();
    for (rows, groups, width) in [(6, 3, 256), (7, 1, 512), (8, 2, 48), (3, 3, 10)] {
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
    for (heads, width) in HEADS {
        check_head_norm_gradients::<B>(heads, width);
        for (normed, rotated) in [(true, true), (true, false), (false, true), (false, false)] {
            check_split_gradients::<B>(heads, width, normed, rotated);
        }
    }
}

fn check_split_gradients<B: KernelBackend>(
    heads: usize,
    width: usize,
    normed: bool,
    rotated: bool,
) {
    let (batch, tokens, parts, part) = (2, 5, 3, 1);
    let shape = [batch, tokens, parts, heads, width];
    let x = numbers(shape.iter().product(), 5);
    let (weight, angles) = (numbers(width, 6), numbers(tokens * width / 2, 7));
    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
    let got = gradients::<B, 5, 4>([tensor(&x, shape), tensor(&x, shape)], |[x, y]| {
        let norm = normed.then(|| (tensor(&weight, [width]), 1e-6));
        let rotation = rotated.then(|| Rotation {
            cos: tensor(&cos, [tokens, width / 2]),
            sin: tensor(&sin, [tokens, width / 2]),
        });
        // Of the first, one part is taken twice and all of it is used once more.
        split_heads(x.clone(), part, norm, rotation)
            + split_heads(x.clone(), 0, None, None)
            + split_heads(x.clone(), 0, None, None) * 2.0
            + split_heads(y, 2, None, None)
            + x.sum_dim(2).squeeze_dim::<4>(2).swap_dims(1, 2)
    });
    let want = gradients::<Flex, 5, 4>([tensor(&x, shape), tensor(&x, shape)], |[x, y]| {
        let take = |x: Leaf<Flex, 5>, part: usize| -> Leaf<Flex, 4> {
            x.narrow(2, part, 1).squeeze_dim::<4>(2).swap_dims(1, 2)
        };
        let others = take(x.clone(), 0) * 3.0
            + x.clone().sum_dim(2).squeeze_dim::<4>(2).swap_dims(1, 2)
            + take(y, 2);
        let mut x = take(x, part);
        if normed {
            let root = (x.clone().powi_scalar(2).mean_dim(3) + 1e-6).sqrt();
            x = x / root * tensor(&weight, [1, 1, 1, width]);
        }
        if rotated {
            let pairs = x.reshape([batch, heads, tokens, width / 2, 2]);
            let (even, odd) = (pairs.clone().narrow(4, 0, 1), pairs.narrow(4, 1, 1));
            let table = |t: &[f32]| tensor(t, [1, 1, tokens, width / 2, 1]);
            let turned = vec![
                even.clone() * table(&cos) - odd.clone() * table(&sin),
                odd * table(&cos) + even * table(&sin),
            ];
            x = Tensor::cat(turned, 4).reshape([batch, heads, tokens, width]);
        }
        x + others
    });
    assert_same(
        &format!("split_heads {heads} {width} {normed} {rotated}"),
        &got,
        &want,
    );
}

/// Two terms with a gap between their columns, each from its own part of the hidden values.
fn check_low_rank<B: KernelBackend>() {
    let (rows, columns, rank) = (7, 20, 5);
    let (y, hidden) = (numbers(rows * columns, 1), numbers(rows * rank, 2));
    let (up, other) = (numbers(6 * 3, 3), numbers(8 * 2, 4));
    let mut expected: Vec<f64> = y.iter().map(|y| f64::from(*y)).collect();
    for (up, [out, r, first, start]) in [(&up, [6, 3, 0, 2]), (&other, [8, 2, 3, 12])] {
        for row in 0..rows {
            for column in 0..out {
                let sum: f64 = (0..r)
                    .map(|i| {
                        let value = hidden[row * rank + first + i];
                        f64::from(value) * f64::from(up[column * r + i])
                    })
                    .sum();
                expected[row * columns + start + column] += sum;
            }
        }
    }
    let parts = vec![
        (0, 2, tensor::<B, 2>(&up, [6, 3])),
        (3, 12, tensor(&other, [8, 2])),
    ];
    let hidden = tensor(&hidden, [1, rows, rank]);
    let out = add_low_rank(tensor::<B, 3>(&y, [1, rows, columns]), hidden, parts);
    assert_close(out, &expected, 1e-5);
}

mod cpu {
    use super::*;

    #[test]
    fn portable_bodies() {
        check_all::<Flex>();
    }

    #[test]
    fn under_autodiff() {
        check_all::<Autodiff<Flex>>();
    }

    #[test]
    fn backward_steps() {
        check_gradients::<Flex>();
    }

    #[test]
    fn low_rank_products() {
        check_low_rank::<Flex>();
        check_low_rank::<Autodiff<Flex>>();
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
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use super::*;

    #[test]
    fn kernels_on_wgpu() {
        check_all::<burn_wgpu::Wgpu>();
    }

    #[test]
    fn backward_steps_on_wgpu() {
        check_gradients::<burn_wgpu::Wgpu>();
    }

    #[test]
    fn low_rank_products_on_wgpu() {
        check_low_rank::<burn_wgpu::Wgpu>();
    }
}
