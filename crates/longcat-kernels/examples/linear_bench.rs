//! Linear layers of the transformer on CUDA: results against f64 sums on the host, then times.
//!
//! One JSON object per line on stdout, the counterpart of `benches/pytorch/linear.py`:
//! `linear_bench [ROWS]`; `LONGCAT_NO_CUBLAS=1` shows Burn's own kernels.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor, backend::Backend};
use burn_cuda::{Cuda, CudaDevice};
use longcat_kernels::{cublas_status, linear};

/// Fused qkv; attention output; feed-forward in and out.
const SHAPES: [(usize, usize); 4] = [(4096, 12288), (4096, 4096), (4096, 11008), (11008, 4096)];
const REPEATS: usize = 20;

type Error = Box<dyn std::error::Error>;

fn random<const D: usize>(shape: [usize; D], dtype: DType, device: &CudaDevice) -> Tensor<Cuda, D> {
    Tensor::<Cuda, D>::random(shape, Distribution::Uniform(-1.0, 1.0), device).cast(dtype)
}

/// Seconds per call, the median of five rounds.
fn seconds(device: &CudaDevice, mut run: impl FnMut()) -> Result<f64, Error> {
    let mut round = |count: usize| -> Result<f64, Error> {
        let start = Instant::now();
        for _ in 0..count {
            run();
        }
        Cuda::<f32, i32>::sync(device)?;
        Ok(start.elapsed().as_secs_f64() / count as f64)
    };
    round(3)?;
    let mut rounds = (0..5)
        .map(|_| round(REPEATS))
        .collect::<Result<Vec<_>, _>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[2])
}

/// ‖y − reference‖ / ‖reference‖ over some rows and columns, the reference summed in f64.
fn error(
    x: &Tensor<Cuda, 2>,
    weight: &Tensor<Cuda, 2>,
    bias: &Tensor<Cuda, 1>,
    y: &Tensor<Cuda, 2>,
) -> Result<f64, Error> {
    let [rows, inner] = x.dims();
    let out = weight.dims()[0];
    let (row_step, column_step) = (rows / 13, out / 17);
    let values = |tensor: Tensor<Cuda, 1>| -> Result<Vec<f32>, Error> {
        tensor
            .cast(DType::F32)
            .into_data()
            .to_vec()
            .map_err(|err| format!("{err:?}").into())
    };
    let line = |tensor: &Tensor<Cuda, 2>, row: usize| {
        values(tensor.clone().narrow(0, row, 1).reshape([-1]))
    };
    let bias = values(bias.clone())?;
    let columns = (0..out).step_by(column_step);
    let weights = columns
        .clone()
        .map(|column| line(weight, column))
        .collect::<Result<Vec<_>, _>>()?;
    let (mut difference, mut norm) = (0.0, 0.0);
    for row in (0..rows).step_by(row_step) {
        let (x, y) = (line(x, row)?, line(y, row)?);
        for (column, weight) in columns.clone().zip(&weights) {
            let sum: f64 = (0..inner)
                .map(|i| f64::from(x[i]) * f64::from(weight[i]))
                .sum();
            let expected = sum + f64::from(bias[column]);
            difference += (f64::from(y[column]) - expected).powi(2);
            norm += expected.powi(2);
        }
    }
    Ok((difference / norm).sqrt())
}

fn main() -> Result<(), Error> {
    let rows = match std::env::args().nth(1) {
        Some(rows) => rows.parse()?,
        None => 37_440,
    };
    let device = CudaDevice::default();
    eprintln!("{}", cublas_status());
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        // Sizes that are multiples of nothing.
        let x = random([301, 1003], dtype, &device);
        let weight = random([517, 1003], dtype, &device);
        let bias = random([517], dtype, &device);
        let y = linear(x.clone(), weight.clone(), Some(bias.clone()));
        let error = error(&x, &weight, &bias, &y)?;
        println!(
            "{}",
            serde_json::json!({"check": format!("{dtype:?}"), "error": error})
        );
    }
    for (inner, out) in SHAPES {
        let x = random([rows, inner], DType::BF16, &device);
        let weight = random([out, inner], DType::BF16, &device);
        let bias = random([out], DType::BF16, &device);
        let y = linear(x.clone(), weight.clone(), Some(bias.clone()));
        let error = error(&x, &weight, &bias, &y)?;
        drop(y);
        for (kind, bias) in [("bias", Some(bias)), ("plain", None)] {
            let time = seconds(&device, || {
                linear(x.clone(), weight.clone(), bias.clone());
            })?;
            println!(
                "{}",
                serde_json::json!({
                    "engine": cublas_status().to_string(),
                    "rows": rows,
                    "in": inner,
                    "out": out,
                    "kind": kind,
                    "ms": time * 1e3,
                    "tflops": 2.0 * (rows * inner * out) as f64 / time / 1e12,
                    "error": error,
                })
            );
        }
    }
    Ok(())
}
