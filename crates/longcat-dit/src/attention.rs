use burn::module::Module;
use burn::nn::{RmsNorm, RmsNormConfig};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{BsaParams, KernelBackend, attention, bsa_attention};
use longcat_lora::{LoraLinear, LoraLinearConfig};

use crate::norm::EPSILON;
use crate::{DitConfig, RopeTables, TextTokens};

/// Keys (before rotation) and values of one block, `[B, heads, N, D]`.
pub(crate) type KeysValues<B> = (Tensor<B, 4>, Tensor<B, 4>);

/// RMSNorm over the head width in fp32, back in the dtype of `x`.
fn head_norm<B: Backend, const D: usize>(norm: &RmsNorm<B>, x: Tensor<B, D>) -> Tensor<B, D> {
    let dtype = x.dtype();
    norm.forward(x.cast(DType::F32)).cast(dtype)
}

fn head_norm_config(config: &DitConfig) -> RmsNormConfig {
    RmsNormConfig::new(config.head_dim()).with_epsilon(EPSILON)
}

/// Self-attention over the token grid, with condition frames, KV cache and block sparsity.
#[derive(Module, Debug)]
pub struct SelfAttention<B: Backend> {
    pub(crate) qkv: LoraLinear<B>,
    pub(crate) proj: LoraLinear<B>,
    q_norm: RmsNorm<B>,
    k_norm: RmsNorm<B>,
    heads: usize,
}

impl<B: Backend> SelfAttention<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let width = config.hidden_size;
        Self {
            qkv: LoraLinearConfig::new(width, 3 * width).init(device),
            proj: LoraLinearConfig::new(width, width).init(device),
            q_norm: head_norm_config(config).init(device),
            k_norm: head_norm_config(config).init(device),
            heads: config.num_heads,
        }
    }
}

impl<B: KernelBackend> SelfAttention<B> {
    /// Normalised queries and keys (not rotated) and values, each `[B, heads, N, D]`.
    fn project(&self, x: Tensor<B, 3>) -> (Tensor<B, 4>, KeysValues<B>) {
        let [b, n, c] = x.dims();
        let d = c / self.heads;
        let qkv = self.qkv.forward(x).reshape([b, n, 3, self.heads, d]);
        let part = |i: usize| {
            qkv.clone()
                .narrow(2, i, 1)
                .reshape([b, n, self.heads, d])
                .swap_dims(1, 2)
        };
        let q = head_norm(&self.q_norm, part(0));
        let k = head_norm(&self.k_norm, part(1));
        (q, (k, part(2)))
    }

    fn merge_heads(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        let [b, heads, n, d] = x.dims();
        self.proj
            .forward(x.swap_dims(1, 2).reshape([b, n, heads * d]))
    }

    /// Attention of all tokens `[B, N, C]`; the first `num_cond` frames attend among themselves.
    ///
    /// Returns the output and the keys and values that a cache keeps.
    pub(crate) fn forward(
        &self,
        x: Tensor<B, 3>,
        grid: [usize; 3],
        rope: &RopeTables<B>,
        num_cond: usize,
        bsa: Option<&BsaParams>,
    ) -> (Tensor<B, 3>, KeysValues<B>) {
        let (q, (k_plain, v)) = self.project(x);
        let q = rope.apply(q);
        let k = rope.apply(k_plain.clone());
        let frame = grid[1] * grid[2];
        let cond = num_cond * frame;
        let bsa = bsa.filter(|_| grid[0] > 1);
        let out = if cond == 0 {
            attend(q, k, v.clone(), frame, grid, bsa)
        } else {
            let head = |x: &Tensor<B, 4>| x.clone().narrow(2, 0, cond);
            let noise = q.clone().narrow(2, cond, q.dims()[2] - cond);
            Tensor::cat(
                vec![
                    attend(head(&q), head(&k), head(&v), frame, grid, bsa),
                    attend(noise, k, v.clone(), frame, grid, bsa),
                ],
                2,
            )
        };
        (self.merge_heads(out), (k_plain, v))
    }

    /// Attention of noise tokens `[B, N, C]` over cached condition keys and themselves.
    ///
    /// `rope` covers condition and noise frames; `grid` counts the noise frames alone.
    pub(crate) fn forward_cached(
        &self,
        x: Tensor<B, 3>,
        grid: [usize; 3],
        rope: &RopeTables<B>,
        cached: KeysValues<B>,
        bsa: Option<&BsaParams>,
    ) -> Tensor<B, 3> {
        let (q, (k, v)) = self.project(x);
        let [batch, _, tokens, _] = q.dims();
        let spread = |x: Tensor<B, 4>| match x.dims()[0] {
            b if b == batch => x,
            _ => x.repeat_dim(0, batch),
        };
        let k = rope.apply(Tensor::cat(vec![spread(cached.0), k], 2));
        let v = Tensor::cat(vec![spread(cached.1), v], 2);
        let q = rope.tail(tokens).apply(q);
        let bsa = bsa.filter(|_| grid[0] > 1);
        self.merge_heads(attend(q, k, v, grid[1] * grid[2], grid, bsa))
    }
}

/// Dense or block-sparse attention; the frame counts follow from the token counts.
fn attend<B: KernelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    frame: usize,
    grid: [usize; 3],
    bsa: Option<&BsaParams>,
) -> Tensor<B, 4> {
    let [_, _, nq, d] = q.dims();
    let nk = k.dims()[2];
    match bsa {
        Some(params) => {
            let shape = |tokens: usize| [tokens / frame, grid[1], grid[2]];
            bsa_attention(q, k, v, shape(nq), shape(nk), params)
        }
        None => attention(q, k, v, (d as f64).powf(-0.5)),
    }
}

/// Cross-attention from video tokens to text tokens.
#[derive(Module, Debug)]
pub struct CrossAttention<B: Backend> {
    pub(crate) q_linear: LoraLinear<B>,
    pub(crate) kv_linear: LoraLinear<B>,
    pub(crate) proj: LoraLinear<B>,
    q_norm: RmsNorm<B>,
    k_norm: RmsNorm<B>,
    heads: usize,
}

impl<B: Backend> CrossAttention<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let width = config.hidden_size;
        Self {
            q_linear: LoraLinearConfig::new(width, width).init(device),
            kv_linear: LoraLinearConfig::new(width, 2 * width).init(device),
            proj: LoraLinearConfig::new(width, width).init(device),
            q_norm: head_norm_config(config).init(device),
            k_norm: head_norm_config(config).init(device),
            heads: config.num_heads,
        }
    }
}

impl<B: KernelBackend> CrossAttention<B> {
    /// Video tokens `[B, N, C]` attend to the text of their sample.
    pub(crate) fn forward(&self, x: Tensor<B, 3>, text: &TextTokens<B>) -> Tensor<B, 3> {
        let out = match text {
            TextTokens::Dense(text) => self.attend(x, text.clone()),
            TextTokens::Ragged(samples) => Tensor::cat(
                samples
                    .iter()
                    .enumerate()
                    .map(|(i, text)| self.attend(x.clone().narrow(0, i, 1), text.clone()))
                    .collect(),
                0,
            ),
        };
        self.proj.forward(out)
    }

    fn attend(&self, x: Tensor<B, 3>, text: Tensor<B, 3>) -> Tensor<B, 3> {
        let [b, n, c] = x.dims();
        let tokens = text.dims()[1];
        let d = c / self.heads;
        let q = self.q_linear.forward(x).reshape([b, n, self.heads, d]);
        let kv = self
            .kv_linear
            .forward(text)
            .reshape([b, tokens, 2, self.heads, d]);
        let part = |i: usize| {
            kv.clone()
                .narrow(2, i, 1)
                .reshape([b, tokens, self.heads, d])
        };
        let q = head_norm(&self.q_norm, q).swap_dims(1, 2);
        let k = head_norm(&self.k_norm, part(0)).swap_dims(1, 2);
        let v = part(1).swap_dims(1, 2);
        attention(q, k, v, (d as f64).powf(-0.5))
            .swap_dims(1, 2)
            .reshape([b, n, c])
    }
}
