//! Steps that operations are made of: sums, softmax, other orders of dimensions.

use burn::tensor::{Tensor, TensorPrimitive};
use longcat_kernels::KernelBackend;

use super::numbers::{assert_close, numbers, tensor};

pub fn check_softmax<B: KernelBackend>(rows: usize, width: usize, scale: f64) {
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

pub fn check_column_sums<B: KernelBackend>(rows: usize, width: usize) {
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

pub fn check_block_sums<B: KernelBackend>(blocks: usize, block: usize, width: usize) {
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
pub fn check_permute<B: KernelBackend>(shape: [usize; 5], axes: [usize; 5]) {
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
