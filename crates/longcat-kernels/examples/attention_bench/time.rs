//! Times at the sizes of the released model: bf16, 32 heads of 128.

use std::time::{Duration, Instant};

use burn::tensor::{DType, Distribution, Tensor, backend::Backend};
use longcat_kernels::{BsaParams, EmptySelection, KernelBackend, bsa_attention};

use crate::{Device, Gpu, raw};

const HEADS: usize = 32;
const HEAD_DIM: usize = 128;
/// Tokens of 480x832 and 93 frames.
const DENSE_TOKENS: usize = 37_440;
/// Token grid of the released refine stage.
const GRID: [usize; 3] = [48, 44, 80];
const SPARSITY: f64 = 0.9375;

pub fn run(device: &Device) -> bool {
    let scale = 1.0 / (HEAD_DIM as f64).sqrt();
    {
        let [q, k, v, d_out] = [(); 4].map(|()| normal(DENSE_TOKENS, device));
        let flops = 4.0 * (DENSE_TOKENS * DENSE_TOKENS * HEADS * HEAD_DIM) as f64;
        let forward =
            || Gpu::attention_forward(raw(q.clone()), raw(k.clone()), raw(v.clone()), None, scale);
        report("dense forward", flops, measure(device, || drop(forward())));
        let (out, lse) = forward();
        let backward = || {
            Gpu::attention_backward(
                raw(q.clone()),
                raw(k.clone()),
                raw(v.clone()),
                out.clone(),
                lse.clone(),
                raw(d_out.clone()),
                None,
                scale,
            )
        };
        report(
            "dense backward",
            2.5 * flops,
            measure(device, || drop(backward())),
        );
    }
    let tokens: usize = GRID.iter().product();
    let params = BsaParams {
        sparsity: Some(SPARSITY),
        cdf_threshold: None,
        chunk_3d_shape_q: [4, 4, 4],
        chunk_3d_shape_k: [4, 4, 4],
        empty_selection: EmptySelection::KeepBest,
    };
    let kept = ((1.0 - SPARSITY) * (tokens / 64) as f64) as usize * 64;
    let [q, k, v] = [(); 3].map(|()| normal(tokens, device));
    let sparse = || bsa_attention(q.clone(), k.clone(), v.clone(), GRID, GRID, &params);
    let flops = 4.0 * (tokens * kept * HEADS * HEAD_DIM) as f64;
    report(
        "block-sparse forward with selection",
        flops,
        measure(device, || drop(sparse())),
    );
    true
}

fn normal(tokens: usize, device: &Device) -> Tensor<Gpu, 4> {
    let shape = [1, HEADS, tokens, HEAD_DIM];
    Tensor::<Gpu, 4>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(DType::BF16)
}

/// The median of five calls after two that are not counted, each synchronised.
fn measure(device: &Device, call: impl Fn()) -> Duration {
    let mut times: Vec<_> = (0..7)
        .map(|_| {
            Gpu::sync(device).expect("device synchronisation");
            let start = Instant::now();
            call();
            Gpu::sync(device).expect("device synchronisation");
            start.elapsed()
        })
        .skip(2)
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn report(name: &str, flops: f64, time: Duration) {
    println!(
        "{name}: {:.2} ms, {:.0} TFLOP/s",
        time.as_secs_f64() * 1e3,
        flops / time.as_secs_f64() / 1e12,
    );
}
