//! One transformer block and what all blocks of a forward pass share.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use longcat_kernels::{BsaParams, KernelBackend, silu_mul};
use longcat_lora::{LoraLinear, LoraLinearConfig};

use crate::attention::{CrossAttention, Extent, Heads, KeysValues, SelfAttention};
use crate::embed::chunks;
use crate::norm::{AffineNorm, gated_residual, norm_modulate};
use crate::{DitConfig, RopeTables, TextTokens};

/// SwiGLU: `w2(silu(w1 x) · w3 x)`, without bias.
#[derive(Module, Debug)]
pub(crate) struct FeedForward<B: Backend> {
    pub(crate) w1: LoraLinear<B>,
    pub(crate) w2: LoraLinear<B>,
    pub(crate) w3: LoraLinear<B>,
}

impl<B: Backend> FeedForward<B> {
    fn new(config: &DitConfig, device: &B::Device) -> Self {
        let (width, hidden) = (config.hidden_size, config.ffn_dim());
        let layer = |d_in, d_out| {
            LoraLinearConfig::new(d_in, d_out)
                .with_bias(false)
                .init(device)
        };
        Self {
            w1: layer(width, hidden),
            w2: layer(hidden, width),
            w3: layer(width, hidden),
        }
    }
}

impl<B: KernelBackend> FeedForward<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let gate = self.w1.forward(x.clone());
        self.w2.forward(silu_mul(gate, self.w3.forward(x)))
    }
}

/// What the blocks of one forward pass share.
#[derive(Debug, Clone)]
pub struct BlockContext<B: Backend> {
    /// Text of every sample; `None` skips cross-attention (cache pass).
    pub text: Option<TextTokens<B>>,
    /// Timestep embeddings `[B, T, C_t]`, fp32.
    pub time: Tensor<B, 3>,
    /// Token grid (T, H, W).
    pub grid: [usize; 3],
    /// Rotary tables of the tokens.
    pub rope: RopeTables<B>,
    /// Leading frames that are clean conditions.
    pub num_cond: usize,
    /// Block-sparse attention, when it is on.
    pub bsa: Option<BsaParams>,
}

impl<B: Backend> BlockContext<B> {
    /// What self-attention goes over if these are all tokens there are.
    pub(crate) fn extent(&self) -> Extent<'_> {
        Extent {
            grid: self.grid,
            num_cond: self.num_cond,
            bsa: self.bsa.as_ref(),
        }
    }
}

/// Tokens on their way through a block, before self-attention is added.
pub(crate) struct Attending<B: Backend> {
    x: Tensor<B, 3>,
    gate: Tensor<B, 3>,
    /// Shift, scale and gate of the feed-forward layer.
    feed: [Tensor<B, 3>; 3],
}

/// One transformer block: modulated self-attention, cross-attention, modulated SwiGLU.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    pub(crate) adaln: LoraLinear<B>,
    pub(crate) attn: SelfAttention<B>,
    pub(crate) pre_crs_attn_norm: AffineNorm<B>,
    pub(crate) cross_attn: CrossAttention<B>,
    pub(crate) ffn: FeedForward<B>,
}

impl<B: Backend> Block<B> {
    pub(crate) fn new(config: &DitConfig, device: &B::Device) -> Self {
        let width = config.hidden_size;
        Self {
            adaln: LoraLinearConfig::new(config.adaln_tembed_dim, 6 * width).init(device),
            attn: SelfAttention::new(config, device),
            pre_crs_attn_norm: AffineNorm::new(width, device),
            cross_attn: CrossAttention::new(config, device),
            ffn: FeedForward::new(config, device),
        }
    }
}

impl<B: KernelBackend> Block<B> {
    /// Tokens `[B, N, C]` through the block.
    pub fn forward(&self, x: Tensor<B, 3>, context: &BlockContext<B>) -> Tensor<B, 3> {
        self.run(x, context, context.num_cond, |normed| {
            self.attn.forward(normed, context)
        })
    }

    /// As [`Self::forward`], and the keys and values that a cache keeps.
    pub(crate) fn forward_keeping(
        &self,
        x: Tensor<B, 3>,
        context: &BlockContext<B>,
    ) -> (Tensor<B, 3>, KeysValues<B>) {
        let mut kept = None;
        let out = self.run(x, context, context.num_cond, |normed| {
            let (out, keys_values) = self.attn.forward_keeping(normed, context);
            kept = Some(keys_values);
            out
        });
        match kept {
            Some(kept) => (out, kept),
            None => unreachable!("attention runs in every block"),
        }
    }

    /// Noise tokens `[B, N, C]` through the block, over cached condition keys and values;
    /// `cached_rope` are the tables of the cached tokens.
    pub(crate) fn forward_cached(
        &self,
        x: Tensor<B, 3>,
        context: &BlockContext<B>,
        cached: KeysValues<B>,
        cached_rope: &RopeTables<B>,
    ) -> Tensor<B, 3> {
        // The condition tokens live in the cache: every token here is noise to cross-attention.
        self.run(x, context, 0, |normed| {
            self.attn
                .forward_cached(normed, context, cached, cached_rope)
        })
    }

    /// The first part of a block whose attention is computed elsewhere: tokens `[B, N, C]` to their
    /// heads.
    pub(crate) fn begin(
        &self,
        x: Tensor<B, 3>,
        context: &BlockContext<B>,
    ) -> (Heads<B>, Attending<B>) {
        let (normed, attending) = self.enter(x, context);
        (self.attn.heads(normed, &context.rope), attending)
    }

    /// The last part: what the heads attended to, `[B, heads, N, D]`, and everything after it.
    pub(crate) fn finish(
        &self,
        attending: Attending<B>,
        attended: Tensor<B, 4>,
        context: &BlockContext<B>,
        num_cond: usize,
    ) -> Tensor<B, 3> {
        self.leave(
            attending,
            self.attn.merge_heads(attended),
            context,
            num_cond,
        )
    }

    fn run(
        &self,
        x: Tensor<B, 3>,
        context: &BlockContext<B>,
        num_cond: usize,
        attend: impl FnOnce(Tensor<B, 3>) -> Tensor<B, 3>,
    ) -> Tensor<B, 3> {
        let (normed, attending) = self.enter(x, context);
        self.leave(attending, attend(normed), context, num_cond)
    }

    /// Tokens modulated for self-attention.
    fn enter(&self, x: Tensor<B, 3>, context: &BlockContext<B>) -> (Tensor<B, 3>, Attending<B>) {
        let modulation = self.adaln.forward(silu(context.time.clone()));
        let [shift_a, scale_a, gate, shift, scale, gate_f] = chunks(modulation);
        let normed = norm_modulate(x.clone(), shift_a, scale_a);
        let feed = [shift, scale, gate_f];
        (normed, Attending { x, gate, feed })
    }

    /// Everything after self-attention.
    fn leave(
        &self,
        attending: Attending<B>,
        attended: Tensor<B, 3>,
        context: &BlockContext<B>,
        num_cond: usize,
    ) -> Tensor<B, 3> {
        let Attending { x, gate, feed } = attending;
        let x = gated_residual(x, attended, gate);
        let x = match &context.text {
            Some(text) => self.cross_attend(x, text, num_cond * context.grid[1] * context.grid[2]),
            None => x,
        };
        let [shift, scale, gate] = feed;
        let fed = self.ffn.forward(norm_modulate(x.clone(), shift, scale));
        gated_residual(x, fed, gate)
    }

    /// Adds cross-attention to all tokens after the first `cond`, which get nothing.
    fn cross_attend(&self, x: Tensor<B, 3>, text: &TextTokens<B>, cond: usize) -> Tensor<B, 3> {
        let tokens = x.dims()[1];
        let noise = match cond {
            0 => x.clone(),
            // A part of a clip may be all conditions.
            cond if cond == tokens => return x,
            _ => x.clone().narrow(1, cond, tokens - cond),
        };
        let normed = self.pre_crs_attn_norm.forward(noise.clone());
        let noise = noise + self.cross_attn.forward(normed, text);
        match cond {
            0 => noise,
            _ => Tensor::cat(vec![x.narrow(1, 0, cond), noise], 1),
        }
    }
}
