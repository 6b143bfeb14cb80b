//! One transformer block and what all blocks of a forward pass share.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use longcat_kernels::{AttentionNumbers, BsaParams, KernelBackend};
use longcat_lora::{LoraLinear, LoraLinearConfig};

use crate::attention::{
    CrossAttention, Extent, Heads, KeysValues, SelfAttention, attend_all, attend_cached,
};
use crate::embed::chunks;
use crate::input::Input;
use crate::norm::{AffineNorm, gated_residual, modulated_for};
use crate::pieces::{pieces, replace};
use crate::{DitConfig, RopeTables, TextTokens, TokenPieces};

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
    /// Tokens through the layers, normalised and modulated first.
    fn forward(&self, x: Tensor<B, 3>, shift: Tensor<B, 3>, scale: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = modulated_for(&[&self.w1, &self.w3], x, shift, scale);
        let gate = x.clone().through(&self.w1);
        let value = x.through(&self.w3);
        Input::gated(gate, value, &self.w2).through(&self.w2)
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
    /// In which numbers self-attention is computed.
    pub numbers: AttentionNumbers,
    /// How many tokens are worked on at a time.
    pub pieces: TokenPieces,
}

impl<B: Backend> BlockContext<B> {
    /// What self-attention goes over if these are all tokens there are.
    pub(crate) fn extent(&self) -> Extent<'_> {
        Extent {
            grid: self.grid,
            num_cond: self.num_cond,
            bsa: self.bsa.as_ref(),
            numbers: self.numbers,
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
        let (heads, attending) = self.begin(x, context);
        let attended = attend_all(heads, context.extent());
        self.finish(attending, attended, context, context.num_cond)
    }

    /// As [`Self::forward`], and the keys and values that a cache keeps.
    pub(crate) fn forward_keeping(
        &self,
        x: Tensor<B, 3>,
        context: &BlockContext<B>,
    ) -> (Tensor<B, 3>, KeysValues<B>) {
        let ([shift, scale], attending) = self.enter(x, context);
        let normed = modulated_for(&[&self.attn.qkv], attending.x.clone(), shift, scale);
        let (attended, kept) = self.attn.forward_keeping(normed, context);
        let out = self.leave(attending, attended, context, context.num_cond);
        (out, kept)
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
        let (heads, attending) = self.begin(x, context);
        let attended = attend_cached(heads, cached, cached_rope, context.extent());
        // The condition tokens live in the cache: every token here is noise to cross-attention.
        self.finish(attending, attended, context, 0)
    }

    /// The first part of a block whose attention is computed elsewhere: tokens `[B, N, C]` to their
    /// heads.
    pub(crate) fn begin(
        &self,
        x: Tensor<B, 3>,
        context: &BlockContext<B>,
    ) -> (Heads<B>, Attending<B>) {
        let (modulation, attending) = self.enter(x, context);
        (self.heads(&attending.x, modulation, context), attending)
    }

    /// The last part: what the heads attended to, `[B, heads, N, D]`, and everything after it.
    pub(crate) fn finish(
        &self,
        attending: Attending<B>,
        attended: Tensor<B, 4>,
        context: &BlockContext<B>,
        num_cond: usize,
    ) -> Tensor<B, 3> {
        let attended = self.attn.merge_heads(attended);
        self.leave(attending, attended, context, num_cond)
    }

    /// Shift and scale of the tokens on their way to self-attention, and what comes after it.
    fn enter(
        &self,
        x: Tensor<B, 3>,
        context: &BlockContext<B>,
    ) -> ([Tensor<B, 3>; 2], Attending<B>) {
        let modulation = self.adaln.forward(silu(context.time.clone()));
        let [shift_a, scale_a, gate, shift, scale, gate_f] = chunks(modulation);
        let feed = [shift, scale, gate_f];
        ([shift_a, scale_a], Attending { x, gate, feed })
    }

    /// Queries, keys and values of tokens that are modulated first.
    fn heads(
        &self,
        x: &Tensor<B, 3>,
        [shift, scale]: [Tensor<B, 3>; 2],
        context: &BlockContext<B>,
    ) -> Heads<B> {
        let ([samples, tokens, width], grid) = (x.dims(), context.grid);
        let most = context.pieces.most;
        let Some(pieces) = pieces(most, samples, grid, 0..grid[0]) else {
            let normed = modulated_for(&[&self.attn.qkv], x.clone(), shift, scale);
            return self.attn.heads(normed, &context.rope);
        };
        let rows = x.clone().reshape([samples * tokens, width]);
        let count = self.attn.head_count();
        let shape = [samples, count, tokens, width / count];
        let mut heads = [0; 3].map(|_| Tensor::empty(shape, (&x.device(), x.dtype())));
        for piece in pieces {
            let (shift, scale) = (piece.of_table(&shift), piece.of_table(&scale));
            let normed = modulated_for(&[&self.attn.qkv], piece.of_rows(&rows), shift, scale);
            let rope = context.rope.part(piece.tokens.clone());
            let [q, k, v] = heads;
            let [own_q, own_k, own_v] = self.attn.heads(normed, &rope);
            heads =
                [(q, own_q), (k, own_k), (v, own_v)].map(|(all, own)| piece.put_heads(all, own));
        }
        heads
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
            Some(text) => self.cross_attend(x, text, context, num_cond),
            None => x,
        };
        self.feed_forward(x, feed, context)
    }

    /// Adds cross-attention to all tokens after the first `num_cond` frames, which get nothing.
    fn cross_attend(
        &self,
        x: Tensor<B, 3>,
        text: &TextTokens<B>,
        context: &BlockContext<B>,
        num_cond: usize,
    ) -> Tensor<B, 3> {
        let ([samples, tokens, _], grid) = (x.dims(), context.grid);
        let cond = num_cond * grid[1] * grid[2];
        let most = context.pieces.most;
        // A part of a clip may be all conditions.
        if cond == tokens {
            return x;
        }
        if let Some(pieces) = pieces(most, samples, grid, num_cond..grid[0]) {
            let texts = (0..samples).map(|i| self.cross_attn.keys_values(text.sample(i)));
            let texts: Vec<KeysValues<B>> = texts.collect();
            return replace(x, &pieces, |noise, piece| {
                let normed = self.cross_input(noise.clone());
                let text = texts[piece.sample()].clone();
                noise + self.cross_attn.forward_over(normed, text)
            });
        }
        // What is moved and not cloned, the sum can be written over.
        let (clean, noise) = match cond {
            0 => (None, x),
            _ => {
                let noise = x.clone().narrow(1, cond, tokens - cond);
                (Some(x.narrow(1, 0, cond)), noise)
            }
        };
        let crossed = match text {
            TextTokens::Dense(text) => {
                let normed = self.cross_input(noise.clone());
                let text = self.cross_attn.keys_values(text.clone());
                self.cross_attn.forward_over(normed, text)
            }
            TextTokens::Ragged(texts) => {
                let normed = self.pre_crs_attn_norm.forward(noise.clone());
                self.cross_attn.forward_each(normed, texts)
            }
        };
        let noise = noise + crossed;
        match clean {
            None => noise,
            Some(clean) => Tensor::cat(vec![clean, noise], 1),
        }
    }

    /// Tokens as cross-attention reads them.
    fn cross_input(&self, x: Tensor<B, 3>) -> Input<B> {
        self.pre_crs_attn_norm
            .forward_for(&self.cross_attn.q_linear, x)
    }

    /// Adds the feed-forward layer, modulated by shift and scale and gated.
    fn feed_forward(
        &self,
        x: Tensor<B, 3>,
        [shift, scale, gate]: [Tensor<B, 3>; 3],
        context: &BlockContext<B>,
    ) -> Tensor<B, 3> {
        let add = |x: Tensor<B, 3>, shift, scale, gate| {
            let fed = self.ffn.forward(x.clone(), shift, scale);
            gated_residual(x, fed, gate)
        };
        let (samples, grid) = (x.dims()[0], context.grid);
        match pieces(context.pieces.most, samples, grid, 0..grid[0]) {
            None => add(x, shift, scale, gate),
            Some(pieces) => replace(x, &pieces, |x, piece| {
                let [shift, scale, gate] =
                    [&shift, &scale, &gate].map(|table| piece.of_table(table));
                add(x, shift, scale, gate)
            }),
        }
    }
}
