//! Linear layers against f64 sums on the host, over some rows and columns.

use burn::tensor::{DType, Distribution, Shape, Tensor, TensorData, backend::Backend};
use burn_flex::Flex;
use longcat_kernels::{KernelBackend, add_low_rank, cublas_status, linear};

use crate::{Device, Gpu, TOLERANCE, float, raw, relative_error};

/// Rows, inputs and outputs: multiples of nothing, and the fused qkv of the released width.
const SHAPES: [[usize; 3]; 2] = [[301, 1003, 517], [4096, 4096, 12288]];

pub fn run(device: &Device) -> bool {
    println!("{}", cublas_status());
    let mut ok = true;
    for [rows, inner, out] in SHAPES {
        for (dtype, tolerance) in [
            (DType::F32, 1e-5),
            (DType::F16, TOLERANCE),
            (DType::BF16, TOLERANCE),
        ] {
            let x = random([rows, inner], dtype, device);
            let weight = random([out, inner], dtype, device);
            let bias = random([out], dtype, device);
            let y = linear(x.clone(), weight.clone(), Some(bias.clone()));
            let error = error(&x, &weight, &bias, &y);
            let good = error < tolerance;
            ok &= good;
            println!(
                "linear {rows} x {inner} -> {out} {dtype:?}: relative L2 error {error:.2e}{}",
                if good { "" } else { " FAILED" },
            );
        }
    }
    let cpu = Default::default();
    for (name, got, want) in [
        (
            "add_low_rank",
            low_rank::<Gpu>(device),
            low_rank::<Flex>(&cpu),
        ),
        ("matmul_nt", products::<Gpu>(device), products::<Flex>(&cpu)),
    ] {
        let error = relative_error(&got, &want);
        let good = error < 1e-5;
        ok &= good;
        println!(
            "{name}: relative L2 error {error:.2e}{}",
            if good { "" } else { " FAILED" },
        );
    }
    ok
}

/// The same numbers on every backend.
pub fn numbers<B: Backend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.618_034).sin()).collect();
    Tensor::from_data(TensorData::new(values, Shape::from(shape)), device)
}

/// Three terms, in place on the GPU.
fn low_rank<B: KernelBackend>(device: &B::Device) -> Vec<f32> {
    let parts = (0..3)
        .map(|part| (part * 16, part * 96, numbers::<B, 2>([96, 16], device)))
        .collect();
    let y = numbers::<B, 3>([2, 301, 288], device);
    let hidden = numbers::<B, 3>([2, 301, 48], device);
    let out = add_low_rank(y, hidden, parts);
    out.into_data().to_vec().expect("f32 data")
}

fn products<B: KernelBackend>(device: &B::Device) -> Vec<f32> {
    let q = numbers::<B, 4>([2, 3, 45, 64], device);
    let k = numbers::<B, 4>([2, 3, 77, 64], device);
    let scores: Tensor<B, 4> = float(B::matmul_nt_forward(raw(q), raw(k)));
    scores.into_data().to_vec().expect("f32 data")
}

fn random<const D: usize>(shape: [usize; D], dtype: DType, device: &Device) -> Tensor<Gpu, D> {
    Tensor::<Gpu, D>::random(shape, Distribution::Uniform(-1.0, 1.0), device).cast(dtype)
}

fn values(tensor: Tensor<Gpu, 1>) -> Vec<f32> {
    tensor
        .cast(DType::F32)
        .into_data()
        .to_vec()
        .expect("f32 data")
}

/// ‖y − reference‖ / ‖reference‖ over 13 rows and 17 columns.
fn error(
    x: &Tensor<Gpu, 2>,
    weight: &Tensor<Gpu, 2>,
    bias: &Tensor<Gpu, 1>,
    y: &Tensor<Gpu, 2>,
) -> f64 {
    let [rows, inner] = x.dims();
    let out = weight.dims()[0];
    let line = |tensor: &Tensor<Gpu, 2>, row: usize| {
        values(tensor.clone().narrow(0, row, 1).reshape([-1]))
    };
    let bias = values(bias.clone());
    let columns = (0..out).step_by(out / 17);
    let weights: Vec<_> = columns.clone().map(|column| line(weight, column)).collect();
    let (mut difference, mut norm) = (0.0, 0.0);
    for row in (0..rows).step_by(rows / 13) {
        let (x, y) = (line(x, row), line(y, row));
        for (column, weight) in columns.clone().zip(&weights) {
            let sum: f64 = (0..inner)
                .map(|i| f64::from(x[i]) * f64::from(weight[i]))
                .sum();
            let expected = sum + f64::from(bias[column]);
            difference += (f64::from(y[column]) - expected).powi(2);
            norm += expected.powi(2);
        }
    }
    (difference / norm).sqrt()
}
