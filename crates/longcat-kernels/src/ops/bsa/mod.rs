//! Block-sparse attention: chunks of the token grid attend to the chunks that matter most to them.
//!
//! Tokens are regrouped so that each t×h×w chunk is contiguous. Queries and keys are averaged per
//! chunk, the averages' products score chunk against chunk, and each query chunk keeps the best
//! key chunks per head. All of it stays on the device.
//!
//! A grid need not be a whole number of chunks: the last chunk along an axis is then smaller, its
//! average is over its real tokens only, and no query sees the padding.

mod grid;
mod params;

pub use params::{BsaParams, BsaParamsError, EmptySelection};

use burn::tensor::{Bool, DType, Tensor};

use crate::ops::attention::{block_attention, block_attention_in};
use crate::{AttentionNumbers, BlockList, KernelBackend, portable};
use grid::Regroup;

/// Block-sparse attention of `q` `[B, H, Nq, D]` over `k` and `v` `[B, H, Nk, D]`, scale `1/√D`.
///
/// Tokens are in T, H, W order on the grids `grid_q` and `grid_k` (tokens along t, h, w). The result
/// has the shape, order and dtype of `q`. Differentiable in `q`, `k`, `v`; the choice of blocks is
/// a constant.
///
/// # Panics
/// If a tensor does not have its grid's number of tokens, or a chunk has no tokens.
pub fn bsa_attention<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    grid_q: [usize; 3],
    grid_k: [usize; 3],
    params: &BsaParams,
) -> Tensor<B, 4> {
    bsa_attention_in(AttentionNumbers::Floats, [q, k, v], grid_q, grid_k, params)
}

/// [`bsa_attention`] of queries, keys and values in other numbers; blocks are chosen in the same.
///
/// # Panics
/// As [`bsa_attention`].
pub fn bsa_attention_in<B: KernelBackend>(
    numbers: AttentionNumbers,
    [q, k, v]: [Tensor<B, 4>; 3],
    grid_q: [usize; 3],
    grid_k: [usize; 3],
    params: &BsaParams,
) -> Tensor<B, 4> {
    let scale = (q.dims()[3] as f64).powf(-0.5);
    let groups = Groups::new(grid_q, grid_k, params);
    let ([q, k, v], blocks) = groups.regroup([q, k, v], params);
    groups
        .q
        .scatter(block_attention_in(numbers, q, k, v, Some(blocks), scale))
}

/// [`bsa_attention`], and the natural log-sum-exp `[B, H, Nq]` over the kept keys in f32 (minus
/// infinity where none is kept), which is a constant to autodiff.
///
/// # Panics
/// As [`bsa_attention`].
pub fn bsa_attention_with_lse<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    grid_q: [usize; 3],
    grid_k: [usize; 3],
    params: &BsaParams,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let scale = (q.dims()[3] as f64).powf(-0.5);
    let groups = Groups::new(grid_q, grid_k, params);
    let ([q, k, v], blocks) = groups.regroup([q, k, v], params);
    let (out, lse) = block_attention(q, k, v, Some(blocks), scale);
    let lse = groups.q.scatter(lse.unsqueeze_dim(3)).squeeze_dim::<3>(3);
    (groups.q.scatter(out), lse)
}

/// The choice of [`bsa_attention`] as a mask `[B, H, Mq, Mk]`: which blocks of queries attend to
/// which blocks of keys, blocks in T, H, W order.
///
/// # Panics
/// As [`bsa_attention`].
pub fn block_mask<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    grid_q: [usize; 3],
    grid_k: [usize; 3],
    params: &BsaParams,
) -> Tensor<B, 4, Bool> {
    let groups = Groups::new(grid_q, grid_k, params);
    let (q, k) = (groups.q.gather(q), groups.k.gather(k));
    groups.select(&q, &k, params).mask(groups.k.blocks())
}

/// How queries and keys are regrouped.
struct Groups {
    q: Regroup,
    k: Regroup,
}

impl Groups {
    fn new(grid_q: [usize; 3], grid_k: [usize; 3], params: &BsaParams) -> Self {
        Self {
            q: Regroup::new(grid_q, params.chunk_3d_shape_q),
            k: Regroup::new(grid_k, params.chunk_3d_shape_k),
        }
    }

    /// Queries, keys and values with each chunk contiguous, and the choice of blocks.
    fn regroup<B: KernelBackend>(
        &self,
        [q, k, v]: [Tensor<B, 4>; 3],
        params: &BsaParams,
    ) -> ([Tensor<B, 4>; 3], BlockList<B>) {
        let q = self.q.gather(q);
        let k = self.k.gather(k);
        let v = self.k.gather(v);
        let blocks = self.select(&q, &k, params);
        ([q, k, v], blocks)
    }

    /// Chooses key blocks for regrouped queries and keys.
    fn select<B: KernelBackend>(
        &self,
        q: &Tensor<B, 4>,
        k: &Tensor<B, 4>,
        params: &BsaParams,
    ) -> BlockList<B> {
        let means = |group: &Regroup, x: &Tensor<B, 4>| group.mean(x.clone().detach());
        let [q_means, k_means] = [means(&self.q, q), means(&self.k, k)].map(portable::into_float);
        let scores = B::matmul_nt_forward(q_means, k_means);
        let rule = params.rule(self.k.blocks(), q.dims()[3]);
        let (indices, counts) = B::select_blocks(scores, rule);
        BlockList {
            indices,
            counts,
            key_valid: self.k.valid::<B>(&q.device()).map(|x| x.into_primitive()),
            block_q: self.q.block(),
            block_k: self.k.block(),
        }
    }
}

/// The dtype of averages and scores.
const SCORE_DTYPE: DType = DType::F32;

/// Averages `[B, H, M * block, D]` over each block, in f32.
fn block_means<B: KernelBackend>(x: Tensor<B, 4>, block: usize) -> Tensor<B, 4> {
    let [b, h, n, d] = x.dims();
    let rows: Tensor<B, 2> = x.reshape([b * h * n, d]);
    let sums = B::block_sums(portable::into_float(rows), block);
    let sums: Tensor<B, 2> = portable::from_float(sums);
    let sums = portable::to_dtype(sums, SCORE_DTYPE);
    sums.reshape([b, h, n / block, d]) / block as f64
}
