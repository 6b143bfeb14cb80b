//! Self-attention with condition frames and a KV cache, and cross-attention to the text.

use burn::module::{Initializer, Module};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{
    AttentionNumbers, BsaParams, KernelBackend, Rotation, attention, attention_in,
    bsa_attention_in, merge_heads, split_heads,
};
use longcat_lora::{LoraLinear, LoraLinearConfig, LoraVector};

use crate::input::Input;
use crate::norm::EPSILON;
use crate::{BlockContext, DitConfig, RopeTables};

/// Keys (before rotation) and values of one block, `[B, heads, N, D]`.
pub(crate) type KeysValues<B> = (Tensor<B, 4>, Tensor<B, 4>);

/// Queries, keys and values of some tokens, `[B, heads, N, D]` each.
pub(crate) type Heads<B> = [Tensor<B, 4>; 3];

/// The tokens that attend to each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent<'a> {
    /// Token grid (T, H, W) of the queries.
    pub grid: [usize; 3],
    /// Leading frames that are clean conditions.
    pub num_cond: usize,
    /// Block-sparse attention, when it is on.
    pub bsa: Option<&'a BsaParams>,
    /// In which numbers it is computed.
    pub numbers: AttentionNumbers,
}

/// The weight of an RMS norm over the channels of a head.
fn head_norm<B: Backend>(config: &DitConfig, device: &B::Device) -> LoraVector<B> {
    LoraVector::new(Initializer::Ones.init([config.head_dim()], device))
}

/// Self-attention over the token grid, with condition frames, KV cache and block sparsity.
#[derive(Module, Debug)]
pub(crate) struct SelfAttention<B: Backend> {
    pub(crate) qkv: LoraLinear<B>,
    pub(crate) proj: LoraLinear<B>,
    pub(crate) q_norm: LoraVector<B>,
    pub(crate) k_norm: LoraVector<B>,
    heads: usize,
}

impl<B: Backend> SelfAttention<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let width = config.hidden_size;
        Self {
            qkv: LoraLinearConfig::new(width, 3 * width).init(device),
            proj: LoraLinearConfig::new(width, width).init(device),
            q_norm: head_norm(config, device),
            k_norm: head_norm(config, device),
            heads: config.num_heads,
        }
    }
}

impl<B: KernelBackend> SelfAttention<B> {
    fn qkv(&self, x: Input<B>) -> Tensor<B, 5> {
        let [b, n, c] = x.dims();
        let d = c / self.heads;
        x.through(&self.qkv).reshape([b, n, 3, self.heads, d])
    }

    /// Tokens `[B, N, C]` as normalised queries and keys, rotated by the tables of their places, and
    /// values.
    pub(crate) fn heads(&self, x: Input<B>, rope: &RopeTables<B>) -> Heads<B> {
        let qkv = self.qkv(x);
        let rotation = rope.rotation();
        let k = head_part(qkv.clone(), 1, Some(&self.k_norm), Some(rotation.clone()));
        let v = head_part(qkv.clone(), 2, None, None);
        let q = head_part(qkv, 0, Some(&self.q_norm), Some(rotation));
        [q, k, v]
    }

    /// Outputs of all heads `[B, heads, N, D]` through the last projection, `[B, N, C]`.
    pub(crate) fn merge_heads(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        Input::heads(x, &self.proj).through(&self.proj)
    }

    /// Number of heads.
    pub(crate) fn head_count(&self) -> usize {
        self.heads
    }

    /// Attention of all tokens `[B, N, C]`, where condition frames attend among themselves, and the
    /// keys and values that a cache keeps.
    pub(crate) fn forward_keeping(
        &self,
        x: Input<B>,
        context: &BlockContext<B>,
    ) -> (Tensor<B, 3>, KeysValues<B>) {
        let qkv = self.qkv(x);
        let k = head_part(qkv.clone(), 1, Some(&self.k_norm), None);
        let v = head_part(qkv.clone(), 2, None, None);
        let q = head_part(qkv, 0, Some(&self.q_norm), Some(context.rope.rotation()));
        let rotated = context.rope.apply(k.clone());
        let out = attend_all([q, rotated, v.clone()], context.extent());
        (self.merge_heads(out), (k, v))
    }
}

/// Part `part` of fused heads `[B, N, parts, heads, D]` as `[B, heads, N, D]`, normalised (in fp32)
/// and rotated where asked for.
fn head_part<B: KernelBackend>(
    fused: Tensor<B, 5>,
    part: usize,
    norm: Option<&LoraVector<B>>,
    rotation: Option<Rotation<B>>,
) -> Tensor<B, 4> {
    let norm = norm.map(|norm| (norm.val().cast(DType::F32), EPSILON));
    split_heads(fused, part, norm, rotation)
}

/// Attention of all tokens: conditions see conditions, noise sees everything.
pub(crate) fn attend_all<B: KernelBackend>(
    [q, k, v]: Heads<B>,
    extent: Extent<'_>,
) -> Tensor<B, 4> {
    let cond = extent.num_cond * extent.grid[1] * extent.grid[2];
    if cond == 0 {
        return attend([q, k, v], extent);
    }
    let head = |x: &Tensor<B, 4>| x.clone().narrow(2, 0, cond);
    let clean = attend([&q, &k, &v].map(head), extent);
    let noise = q.dims()[2] - cond;
    // The queries move, so that no second copy of them lives while attention runs.
    let noise = attend([q.narrow(2, cond, noise), k, v], extent);
    Tensor::cat(vec![clean, noise], 2)
}

/// Attention of noise tokens over the keys of a cache and their own. A cache of one sample serves
/// any batch.
pub(crate) fn attend_cached<B: KernelBackend>(
    [q, k, v]: Heads<B>,
    (cached_k, cached_v): KeysValues<B>,
    cached_rope: &RopeTables<B>,
    extent: Extent<'_>,
) -> Tensor<B, 4> {
    let batch = q.dims()[0];
    let spread = |x: Tensor<B, 4>| match x.dims()[0] {
        b if b == batch => x,
        _ => x.repeat_dim(0, batch),
    };
    let k = Tensor::cat(vec![spread(cached_rope.apply(cached_k)), k], 2);
    let v = Tensor::cat(vec![spread(cached_v), v], 2);
    attend([q, k, v], extent)
}

/// Dense or block-sparse attention; the frame counts follow from the token counts.
fn attend<B: KernelBackend>([q, k, v]: Heads<B>, extent: Extent<'_>) -> Tensor<B, 4> {
    let [_, _, nq, d] = q.dims();
    let nk = k.dims()[2];
    let [frames, height, width] = extent.grid;
    match extent.bsa {
        Some(params) if frames > 1 => {
            let shape = |tokens: usize| [tokens / (height * width), height, width];
            bsa_attention_in(extent.numbers, [q, k, v], shape(nq), shape(nk), params)
        }
        _ => attention_in(extent.numbers, q, k, v, (d as f64).powf(-0.5)),
    }
}

/// Cross-attention from video tokens to text tokens.
#[derive(Module, Debug)]
pub(crate) struct CrossAttention<B: Backend> {
    pub(crate) q_linear: LoraLinear<B>,
    pub(crate) kv_linear: LoraLinear<B>,
    pub(crate) proj: LoraLinear<B>,
    pub(crate) q_norm: LoraVector<B>,
    pub(crate) k_norm: LoraVector<B>,
    heads: usize,
}

impl<B: Backend> CrossAttention<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let width = config.hidden_size;
        Self {
            q_linear: LoraLinearConfig::new(width, width).init(device),
            kv_linear: LoraLinearConfig::new(width, 2 * width).init(device),
            proj: LoraLinearConfig::new(width, width).init(device),
            q_norm: head_norm(config, device),
            k_norm: head_norm(config, device),
            heads: config.num_heads,
        }
    }
}

impl<B: KernelBackend> CrossAttention<B> {
    /// Video tokens `[B, N, C]` attend to the text of their sample, `[1, L, C]` of any length.
    pub(crate) fn forward_each(&self, x: Tensor<B, 3>, texts: &[Tensor<B, 3>]) -> Tensor<B, 3> {
        let attended = texts.iter().enumerate().map(|(i, text)| {
            let own = Input::Floats(x.clone().narrow(0, i, 1));
            merge_heads(self.attend(own, self.keys_values(text.clone())))
        });
        self.proj.forward(Tensor::cat(attended.collect(), 0))
    }

    /// Keys and values of text tokens `[B, L, C]`.
    pub(crate) fn keys_values(&self, text: Tensor<B, 3>) -> KeysValues<B> {
        let [b, tokens, c] = text.dims();
        let kv = self.kv_linear.forward(text);
        let kv = kv.reshape([b, tokens, 2, self.heads, c / self.heads]);
        let k = head_part(kv.clone(), 0, Some(&self.k_norm), None);
        (k, head_part(kv, 1, None, None))
    }

    /// Video tokens `[B, N, C]` attend to the keys and values of the text, those of one sample each to their
    /// own.
    pub(crate) fn forward_over(&self, x: Input<B>, text: KeysValues<B>) -> Tensor<B, 3> {
        Input::heads(self.attend(x, text), &self.proj).through(&self.proj)
    }

    fn attend(&self, x: Input<B>, (k, v): KeysValues<B>) -> Tensor<B, 4> {
        let [b, n, c] = x.dims();
        let d = c / self.heads;
        let q = x.through(&self.q_linear).reshape([b, n, 1, self.heads, d]);
        let q = head_part(q, 0, Some(&self.q_norm), None);
        attention(q, k, v, (d as f64).powf(-0.5))
    }
}
