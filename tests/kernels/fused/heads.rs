//! The split into heads.

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use longcat_kernels::{KernelBackend, Rotation, split_heads};

use super::numbers::{Leaf, assert_close, assert_same, gradients, numbers, tensor};

/// Numbers and widths of heads: those that fill planes, those that leave units idle, and those that
/// leave units idle only in their last round, be planes of 8 units or of 32.
pub const HEADS: [(usize, usize); 10] = [
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

pub fn check_split_heads<B: KernelBackend>(
    heads: usize,
    width: usize,
    normed: bool,
    rotated: bool,
) {
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

/// Gradients of the weights of two norms, with a rotation after the first.
pub fn check_head_norm_gradients<B: KernelBackend>(heads: usize, width: usize) {
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

pub fn check_split_gradients<B: KernelBackend>(
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
