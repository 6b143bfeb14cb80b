//! The transformer: loading, one forward pass, and the pass over cached condition frames.

use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{AttentionNumbers, BsaParams, KernelBackend, Products};
use longcat_weights::{
    LoadAs, LoadOptions, LoadReport, WeightFiles, cast_module, check_module, load_host,
};

use crate::embed::{CaptionEmbedder, FinalLayer, PatchEmbed, TimestepEmbedder};
use crate::layout::official_weights;
use crate::names::{canonical_names, fp32_islands, in_module_shapes, sensitive_layers};
use crate::rope::RopeCache;
use crate::{
    Block, BlockContext, DitConfig, DitError, Fp8Layers, KvCache, RopeTables, TextCondition,
    TextTokens, TokenPieces,
};

/// The LongCat-Video diffusion transformer.
///
/// Latents are `[B, C, T, H, W]`, normalised; timesteps run from 1000 (noise) to 0 (clean), one per
/// latent frame. The output is the model's native prediction, x0 − noise, in fp32.
#[derive(Module, Debug)]
pub struct LongCatTransformer<B: Backend> {
    pub(crate) x_embedder: PatchEmbed<B>,
    pub(crate) t_embedder: TimestepEmbedder<B>,
    pub(crate) y_embedder: CaptionEmbedder<B>,
    pub(crate) blocks: Vec<Block<B>>,
    pub(crate) final_layer: FinalLayer<B>,
    rope: RopeCache<B>,
    #[module(skip)]
    config: DitConfig,
    #[module(skip)]
    bsa: Option<BsaParams>,
    #[module(skip)]
    attention: AttentionNumbers,
    #[module(skip)]
    pieces: TokenPieces,
}

/// The inputs of the first block.
#[derive(Debug, Clone)]
pub struct Embedded<B: Backend> {
    /// Video tokens `[B, N, C]`.
    pub tokens: Tensor<B, 3>,
    /// What all blocks share.
    pub context: BlockContext<B>,
}

impl<B: Backend> LongCatTransformer<B> {
    /// A transformer with random weights, which are initialised when they are first used.
    pub fn new(config: &DitConfig, device: &B::Device) -> Self {
        Self {
            x_embedder: PatchEmbed::new(config, device),
            t_embedder: TimestepEmbedder::new(config, device),
            y_embedder: CaptionEmbedder::new(config, device),
            blocks: (0..config.depth)
                .map(|_| Block::new(config, device))
                .collect(),
            final_layer: FinalLayer::new(config, device),
            rope: RopeCache::default(),
            bsa: config.bsa_params.clone().filter(|_| config.enable_bsa),
            attention: AttentionNumbers::default(),
            pieces: TokenPieces::default(),
            config: config.clone(),
        }
    }

    /// The transformer with its weights in another dtype. The fp32 islands stay what they are.
    pub fn cast(self, dtype: DType) -> Self {
        cast_module(self, dtype, Some(&fp32_islands()))
    }

    /// The config the model was built from.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// The dtype of the token stream.
    pub fn dtype(&self) -> DType {
        self.x_embedder.dtype()
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[Block<B>] {
        &self.blocks
    }

    /// Lets blocks work on some tokens at a time, to the same result in less memory.
    pub fn set_pieces(&mut self, pieces: TokenPieces) {
        self.pieces = pieces;
    }

    /// Lets self-attention be computed in other numbers, where the device has kernels for them.
    pub fn set_attention(&mut self, numbers: AttentionNumbers) {
        self.attention = numbers;
    }

    /// Switches block-sparse attention on or off.
    ///
    /// # Errors
    /// [`DitError::NoBsaParams`] when the config has no parameters for it.
    pub fn set_bsa(&mut self, enabled: bool) -> Result<(), DitError> {
        self.bsa = match (enabled, &self.config.bsa_params) {
            (false, _) => None,
            (true, Some(params)) => Some(params.clone()),
            (true, None) => return Err(DitError::NoBsaParams),
        };
        Ok(())
    }
}

impl<B: KernelBackend> LongCatTransformer<B> {
    /// Reads the weights of a file or directory in any layout, and the `config.json` of a directory; without
    /// one the config is that of the shapes ([`DitConfig::of_weights`]).
    ///
    /// Weights become what `load_as` says; the fp32 islands stay fp32, and matrices that are packed while
    /// they load, or multiplied in other numbers, are those of [`packable`](crate::packable); of the latter those
    /// that [`Fp8Layers::beside`] them names stay out.
    ///
    /// # Errors
    /// [`DitError`] names the file and key.
    pub fn load(
        path: &Path,
        load_as: impl Into<LoadAs>,
        device: &B::Device,
    ) -> Result<(Self, LoadReport), DitError> {
        let files = official_weights(&WeightFiles::open(path)?)?;
        let config = DitConfig::beside(path, &files)?;
        Self::load_with_config(&config, &files, load_as, device)
    }

    /// As [`Self::load`], with a config and weights of the caller's.
    ///
    /// # Errors
    /// [`DitError::Weights`].
    pub fn load_with_config(
        config: &DitConfig,
        files: &WeightFiles,
        load_as: impl Into<LoadAs>,
        device: &B::Device,
    ) -> Result<(Self, LoadReport), DitError> {
        let mut model = Self::new(config, device);
        let load_as = load_as.into();
        let options = LoadOptions {
            dtype: load_as.dtype,
            precision: load_as.precision,
            on_host: load_as.on_host(config.depth),
            keep_f32: Some(fp32_islands()),
            keep_dense: Some(sensitive_layers(config)),
            ..LoadOptions::default()
        };
        let files = in_module_shapes(files);
        let report = load_host(&mut model, &files, &canonical_names(), &options)?;
        if load_as.products != Products::Dense {
            let kept = Fp8Layers::beside(files.path())?.floats;
            model.set_products(load_as.products, &|layer| !kept.contains(layer));
        }
        Ok((model, report))
    }

    /// Which weights under their official names a transformer of this config would take.
    pub fn check(config: &DitConfig, files: &WeightFiles, device: &B::Device) -> LoadReport {
        let model = Self::new(config, device);
        check_module(
            &model,
            &in_module_shapes(files),
            &canonical_names(),
            &LoadOptions::default(),
        )
    }

    /// Predicts x0 − noise, `[B, C, T, H, W]` in fp32.
    ///
    /// `timesteps` is `[B, T]`; the first `num_cond` latent frames are clean conditions (with
    /// timestep 0).
    ///
    /// # Errors
    /// [`DitError::Shape`], [`DitError::ConditionFrames`], [`DitError::EmptyText`].
    pub fn forward(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        num_cond: usize,
    ) -> Result<Tensor<B, 5>, DitError> {
        let blocks = self.in_turn(0..self.depth());
        let Embedded {
            mut tokens,
            context,
        } = self.embed(latents, timesteps, text, num_cond)?;
        for (_, block) in blocks {
            tokens = block.forward(tokens, &context);
        }
        Ok(self.head(tokens, &context))
    }

    /// Everything before the first block: patches, timesteps, text.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn embed(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        num_cond: usize,
    ) -> Result<Embedded<B>, DitError> {
        let frames = latents.dims()[2];
        if num_cond >= frames {
            return Err(DitError::ConditionFrames {
                count: num_cond,
                frames,
                expected: "at least one frame must be noise",
            });
        }
        let text = Some(self.embed_text(text)?);
        let rope = self.tables(self.grid(&latents)?, &latents.device());
        self.embed_latents(latents, timesteps, text, num_cond, rope)
    }

    /// Everything after the last block.
    pub fn head(&self, tokens: Tensor<B, 3>, context: &BlockContext<B>) -> Tensor<B, 5> {
        let (time, most) = (context.time.clone(), context.pieces.most);
        self.final_layer.forward(tokens, time, context.grid, most)
    }

    /// Timesteps `[B, T]` to their embeddings `[B, T, adaln_tembed_dim]`, fp32.
    pub fn embed_time(&self, timesteps: Tensor<B, 2>) -> Tensor<B, 3> {
        // The official code passes timesteps through the dtype of the weights.
        let timesteps = timesteps.cast(self.dtype()).cast(DType::F32);
        self.t_embedder.forward(timesteps)
    }

    /// Text embeddings `[B, L, caption_channels]` to `[B, L, C]`, before the padding rule.
    pub fn embed_caption(&self, embeds: Tensor<B, 3>) -> Tensor<B, 3> {
        self.y_embedder.forward(embeds.cast(self.dtype()))
    }

    /// Text embeddings in the width of the transformer, with the padding rule of the config.
    ///
    /// # Errors
    /// [`DitError::EmptyText`], [`DitError::Shape`].
    pub(crate) fn embed_text(&self, text: &TextCondition<B>) -> Result<TextTokens<B>, DitError> {
        let width = text.embeds.dims()[2];
        if width != self.config.caption_channels {
            return Err(DitError::Shape {
                input: "text embeddings",
                found: text.embeds.dims().to_vec(),
                expected: format!(
                    "the last dimension must be {}",
                    self.config.caption_channels
                ),
            });
        }
        TextTokens::new(
            self.embed_caption(text.embeds.clone()),
            text.mask.as_deref(),
            self.config.text_tokens_zero_pad,
        )
    }

    /// The token grid (T, H, W) of latents.
    pub(crate) fn grid(&self, latents: &Tensor<B, 5>) -> Result<[usize; 3], DitError> {
        self.x_embedder.grid(latents.dims())
    }

    /// Rotary tables of a token grid.
    pub(crate) fn tables(&self, grid: [usize; 3], device: &B::Device) -> RopeTables<B> {
        self.rope.get(grid, self.config.head_dim(), device)
    }

    /// `rope` are the tables of the tokens that these latents become.
    pub(crate) fn embed_latents(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: Option<TextTokens<B>>,
        num_cond: usize,
        rope: RopeTables<B>,
    ) -> Result<Embedded<B>, DitError> {
        let grid = self.grid(&latents)?;
        let batch = latents.dims()[0];
        if timesteps.dims() != [batch, grid[0]] {
            return Err(DitError::Shape {
                input: "timesteps",
                found: timesteps.dims().to_vec(),
                expected: format!("[{batch}, {}] like the latents is needed", grid[0]),
            });
        }
        let text_batch = match &text {
            Some(TextTokens::Dense(tokens)) => tokens.dims()[0],
            Some(TextTokens::Ragged(samples)) => samples.len(),
            None => batch,
        };
        if text_batch != batch {
            return Err(DitError::Shape {
                input: "text",
                found: vec![text_batch],
                expected: format!("a batch of {batch} like the latents is needed"),
            });
        }
        let context = BlockContext {
            text,
            time: self.embed_time(timesteps),
            grid,
            rope,
            num_cond,
            bsa: self.bsa.clone(),
            numbers: self.attention,
            pieces: self.pieces,
        };
        Ok(Embedded {
            tokens: self.x_embedder.forward(latents),
            context,
        })
    }

    /// Keys and values of clean condition frames `[B, C, n, H, W]`: one pass at timestep 0 without
    /// cross-attention. With `offload` they are kept in host memory.
    ///
    /// # Errors
    /// [`DitError::Shape`]; [`DitError::ConditionFrames`] without a frame.
    pub fn cache_condition(
        &self,
        latents: Tensor<B, 5>,
        offload: bool,
    ) -> Result<KvCache<B>, DitError> {
        self.cache_heads(latents, offload, 0..self.config.num_heads)
    }

    /// As [`Self::cache_condition`], for some of the heads.
    pub(crate) fn cache_heads(
        &self,
        latents: Tensor<B, 5>,
        offload: bool,
        heads: Range<usize>,
    ) -> Result<KvCache<B>, DitError> {
        let [batch, _, frames, _, _] = latents.dims();
        if frames == 0 {
            return Err(DitError::ConditionFrames {
                count: 0,
                frames,
                expected: "a KV cache needs at least one condition frame",
            });
        }
        let device = latents.device();
        let timesteps = Tensor::zeros([batch, frames], (&device, DType::F32));
        let rope = self.tables(self.grid(&latents)?, &device);
        // All frames are conditions, which is the same attention as none: each attends to all.
        let Embedded {
            mut tokens,
            context,
        } = self.embed_latents(latents, timesteps, None, 0, rope)?;
        let mut cache = KvCache::new(frames);
        for (_, block) in self.in_turn(0..self.depth()) {
            let (out, (k, v)) = block.forward_keeping(tokens, &context);
            let [k, v] = [k, v].map(|x| x.narrow(1, heads.start, heads.len()));
            cache.push((k, v), offload);
            tokens = out;
        }
        Ok(cache)
    }

    /// Predicts x0 − noise for the noise frames alone, `[B, C, T − n, H, W]` in fp32, over cached
    /// condition frames. A cache of batch 1 serves any batch.
    ///
    /// # Errors
    /// As [`Self::forward`], and [`DitError::Shape`] when the cache does not fit.
    pub fn forward_cached(
        &self,
        latents: Tensor<B, 5>,
        timesteps: Tensor<B, 2>,
        text: &TextCondition<B>,
        cache: &KvCache<B>,
    ) -> Result<Tensor<B, 5>, DitError> {
        let batch = latents.dims()[0];
        let device = latents.device();
        let blocks = self.in_turn(0..self.depth());
        let text = Some(self.embed_text(text)?);
        let [frames, height, width] = self.grid(&latents)?;
        let cached = cache.num_latents() * height * width;
        let rope = self.tables([cache.num_latents() + frames, height, width], &device);
        let cached_rope = rope.part(0..cached);
        let rope = rope.part(cached..cached + frames * height * width);
        let Embedded {
            mut tokens,
            context,
        } = self.embed_latents(latents, timesteps, text, 0, rope)?;
        for (i, block) in blocks {
            let keys_values = cache.layer_for(i, &device, batch, cached)?;
            tokens = block.forward_cached(tokens, &context, keys_values, &cached_rope);
        }
        Ok(self.head(tokens, &context))
    }
}
