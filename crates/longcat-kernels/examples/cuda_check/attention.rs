//! bf16 kernels against softmax attention written out in f32, at `[1, 4, 8192, 128]`.

use burn::tensor::{Bool, DType, Distribution, Tensor, activation::softmax};
use longcat_kernels::{BlockList, BlockRule, KernelBackend};

use crate::{Device, Gpu, TOLERANCE, float, raw, relative_error};

type Quad = Tensor<Gpu, 4>;

const SHAPE: [usize; 4] = [1, 4, 8192, 128];
const BLOCK: usize = 64;

pub fn run(device: &Device) -> bool {
    let scale = 1.0 / (SHAPE[3] as f64).sqrt();
    let [q, k, v, d_out] = [(); 4].map(|()| normal(device));
    let mut ok = true;
    for sparse in [false, true] {
        let list = sparse.then(|| select(&q, &k));
        let (out, lse) = Gpu::attention_forward(
            raw(q.clone()),
            raw(k.clone()),
            raw(v.clone()),
            list.clone(),
            scale,
        );
        let (dq, dk, dv) = Gpu::attention_backward(
            raw(q.clone()),
            raw(k.clone()),
            raw(v.clone()),
            out.clone(),
            lse.clone(),
            raw(d_out.clone()),
            list.clone(),
            scale,
        );
        let mask = list.map(|list| token_mask(&list));
        let want = reference(
            [&q, &k, &v, &d_out].map(|x| x.clone().cast(DType::F32)),
            mask,
            scale,
        );
        let lse = float::<Gpu, 3>(lse).unsqueeze_dim(3);
        for (name, got, want) in [
            ("out", float(out), want[0].clone()),
            ("lse", lse, want[1].clone()),
            ("dq", float(dq), want[2].clone()),
            ("dk", float(dk), want[3].clone()),
            ("dv", float(dv), want[4].clone()),
        ] {
            let error = relative_error(&host(got), &host(want));
            let good = error < TOLERANCE;
            ok &= good;
            println!(
                "check {} {name}: relative L2 error {error:.2e}{}",
                if sparse { "sparse" } else { "dense" },
                if good { "" } else { " FAILED" },
            );
        }
    }
    ok
}

fn normal(device: &Device) -> Quad {
    Quad::random(SHAPE, Distribution::Normal(0.0, 1.0), device).cast(DType::BF16)
}

fn host(tensor: Quad) -> Vec<f32> {
    tensor
        .cast(DType::F32)
        .into_data()
        .to_vec()
        .expect("f32 data")
}

/// A sixteenth of the blocks, chosen as block-sparse attention does.
fn select(q: &Quad, k: &Quad) -> BlockList<Gpu> {
    let [b, h, n, d] = SHAPE;
    let means = |x: &Quad| {
        x.clone()
            .cast(DType::F32)
            .reshape([b, h, n / BLOCK, BLOCK, d])
            .mean_dim(3)
            .squeeze_dim::<4>(3)
    };
    let scores = product(means(q), means(k).swap_dims(2, 3));
    let rule = BlockRule {
        top: n / BLOCK / 16,
        cdf: None,
    };
    let (indices, counts) = Gpu::select_blocks(raw(scores), rule);
    BlockList {
        indices,
        counts,
        key_valid: None,
        block_q: BLOCK,
        block_k: BLOCK,
    }
}

/// The mask `[B, H, Nq, Nk]` of the pairs of tokens that do not attend.
fn token_mask(list: &BlockList<Gpu>) -> Tensor<Gpu, 4, Bool> {
    let [b, h, n, _] = SHAPE;
    let blocks = n / BLOCK;
    list.mask(blocks)
        .bool_not()
        .reshape([b * h, blocks, 1, blocks, 1])
        .expand([b * h, blocks, BLOCK, blocks, BLOCK])
        .reshape([b, h, n, n])
}

/// A product per head in f32, by cuBLASLt where it is there: tuning Burn's takes minutes.
fn product(a: Quad, b: Quad) -> Quad {
    float(Gpu::matmul_nt_forward(raw(a), raw(b.swap_dims(2, 3))))
}

/// `[out, lse, dq, dk, dv]`, every matrix in full.
fn reference(
    [q, k, v, d_out]: [Quad; 4],
    mask: Option<Tensor<Gpu, 4, Bool>>,
    scale: f64,
) -> [Quad; 5] {
    let mut scores = product(q.clone(), k.clone().swap_dims(2, 3)) * scale;
    if let Some(mask) = mask {
        scores = scores.mask_fill(mask, -1e30);
    }
    let highest = scores.clone().max_dim(3);
    let lse = (scores.clone() - highest.clone()).exp().sum_dim(3).log() + highest;
    let weights = softmax(scores, 3);
    let out = product(weights.clone(), v.clone());
    let dv = product(weights.clone().swap_dims(2, 3), d_out.clone());
    let d_weights = product(d_out.clone(), v.swap_dims(2, 3));
    let delta = (d_out * out.clone()).sum_dim(3);
    let d_scores = weights * (d_weights - delta) * scale;
    let dq = product(d_scores.clone(), k);
    let dk = product(d_scores.swap_dims(2, 3), q);
    [out, lse, dq, dk, dv]
}
