//! Naive references and random tensors, shared by the tests.
#![allow(dead_code)]

use burn::tensor::{Bool, Distribution, Tensor, TensorData, activation::softmax, backend::Backend};
use longcat_kernels::{BsaParams, EmptySelection};

/// Relative L2 error of `x` against `expected`; absolute where that is zero.
pub fn relative_error<B: Backend, const D: usize>(x: Tensor<B, D>, expected: Tensor<B, D>) -> f64 {
    assert_eq!(x.dims(), expected.dims());
    let (error, size) = (norm(x - expected.clone()), norm(expected));
    if size == 0.0 { error } else { error / size }
}

/// The L2 norm.
pub fn norm<B: Backend, const D: usize>(x: Tensor<B, D>) -> f64 {
    f64::from(x.powi_scalar(2).sum().into_scalar_f32()).sqrt()
}

/// The one value of a tensor.
trait IntoScalarF32 {
    fn into_scalar_f32(self) -> f32;
}

impl<B: Backend> IntoScalarF32 for Tensor<B, 1> {
    fn into_scalar_f32(self) -> f32 {
        self.into_data().convert::<f32>().to_vec::<f32>().unwrap()[0]
    }
}

/// Standard normal values.
pub fn normal<B: Backend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Attention with all scores at once; `mask` is true where a query sees a key.
///
/// Returns the output, and the log-sum-exp `[B, H, Nq]`.
pub fn naive_attention<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    mask: Option<Tensor<B, 4, Bool>>,
    scale: f64,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let mut scores = q.matmul(k.swap_dims(2, 3)) * scale;
    if let Some(mask) = mask {
        scores = scores.mask_fill(mask.bool_not(), -1e30);
    }
    let lse = scores.clone().exp().sum_dim(3).log().squeeze_dim::<3>(3);
    (softmax(scores, 3).matmul(v), lse)
}

/// The block choice of the documentation, one row at a time on the host.
///
/// `q`, `k` are `[tokens][channels]` of one head in T, H, W order. Returns `[Mq][Mk]`.
pub fn naive_selection(
    q: &[Vec<f32>],
    k: &[Vec<f32>],
    grid_q: [usize; 3],
    grid_k: [usize; 3],
    params: &BsaParams,
) -> Vec<Vec<bool>> {
    let q = block_averages(q, grid_q, params.chunk_3d_shape_q);
    let k = block_averages(k, grid_k, params.chunk_3d_shape_k);
    let scale = 1.0 / (q[0].len() as f64).sqrt();
    q.iter()
        .map(|q| {
            let dot = |k: &Vec<f64>| q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>();
            let scores: Vec<f64> = k.iter().map(dot).collect();
            let mut order: Vec<usize> = (0..k.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let total: f64 = scores.iter().map(|s| (s * scale).exp()).sum();
            let mut keep = match params.sparsity {
                Some(sparsity) => ((1.0 - sparsity) * k.len() as f64) as usize,
                None if params.cdf_threshold.is_none() => k.len(),
                None => 0,
            };
            if let Some(threshold) = params.cdf_threshold {
                let mut sum = 0.0;
                let within = order.iter().take_while(|&&block| {
                    sum += (scores[block] * scale).exp() / total;
                    sum <= threshold
                });
                keep = keep.max(within.count());
            }
            if params.empty_selection == EmptySelection::KeepBest {
                keep = keep.max(1);
            }
            let kept = &order[..keep];
            (0..k.len()).map(|block| kept.contains(&block)).collect()
        })
        .collect()
}

/// The block of each token, in T, H, W order.
pub fn block_of_token(grid: [usize; 3], chunk: [usize; 3]) -> Vec<usize> {
    let counts = [0, 1, 2].map(|axis| grid[axis].div_ceil(chunk[axis]));
    let mut blocks = Vec::new();
    for t in 0..grid[0] {
        for h in 0..grid[1] {
            for w in 0..grid[2] {
                let at = [t / chunk[0], h / chunk[1], w / chunk[2]];
                blocks.push((at[0] * counts[1] + at[1]) * counts[2] + at[2]);
            }
        }
    }
    blocks
}

fn block_averages(x: &[Vec<f32>], grid: [usize; 3], chunk: [usize; 3]) -> Vec<Vec<f64>> {
    let blocks = block_of_token(grid, chunk);
    let count = blocks.iter().max().unwrap() + 1;
    let mut sums = vec![vec![0.0; x[0].len()]; count];
    let mut sizes = vec![0.0; count];
    for (token, &block) in blocks.iter().enumerate() {
        sizes[block] += 1.0;
        for (sum, &value) in sums[block].iter_mut().zip(&x[token]) {
            *sum += f64::from(value);
        }
    }
    for (sum, size) in sums.iter_mut().zip(sizes) {
        sum.iter_mut().for_each(|x| *x /= size);
    }
    sums
}

/// One head of `[B, H, N, D]` as rows.
pub fn head_rows<B: Backend>(x: &Tensor<B, 4>, batch: usize, head: usize) -> Vec<Vec<f32>> {
    let [_, _, _, d] = x.dims();
    let head = x.clone().narrow(0, batch, 1).narrow(1, head, 1);
    let values = head.into_data().convert::<f32>().to_vec::<f32>().unwrap();
    values.chunks(d).map(<[f32]>::to_vec).collect()
}

/// Spreads block choices `[B * H][Mq][Mk]` over tokens: `[B, H, Nq, Nk]`.
pub fn token_mask<B: Backend>(
    choices: &[Vec<Vec<bool>>],
    [b, h]: [usize; 2],
    grid_q: [usize; 3],
    grid_k: [usize; 3],
    params: &BsaParams,
    device: &B::Device,
) -> Tensor<B, 4, Bool> {
    let rows = block_of_token(grid_q, params.chunk_3d_shape_q);
    let columns = block_of_token(grid_k, params.chunk_3d_shape_k);
    let mut mask = Vec::with_capacity(b * h * rows.len() * columns.len());
    for choice in choices {
        for &row in &rows {
            mask.extend(columns.iter().map(|&column| choice[row][column]));
        }
    }
    Tensor::from_data(
        TensorData::new(mask, [b, h, rows.len(), columns.len()]),
        device,
    )
}
