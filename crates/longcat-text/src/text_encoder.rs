//! Prompts to embeddings.

use std::path::Path;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_kernels::KernelBackend;
use longcat_weights::LoadAs;

use crate::{PromptTokenizer, TextError, Umt5Config, Umt5Encoder, clean_prompt};

/// Prompts to embeddings: cleaning, tokenizer and encoder of one checkpoint.
#[derive(Debug)]
pub struct TextEncoder<B: Backend> {
    tokenizer: PromptTokenizer,
    encoder: Umt5Encoder<B>,
    config: Umt5Config,
    device: B::Device,
}

impl<B: Backend> TextEncoder<B> {
    /// Puts a tokenizer and an encoder on `device` together.
    ///
    /// # Errors
    /// [`TextError::VocabularyMismatch`].
    pub fn new(
        tokenizer: PromptTokenizer,
        encoder: Umt5Encoder<B>,
        config: Umt5Config,
        device: &B::Device,
    ) -> Result<Self, TextError> {
        let largest_id = tokenizer.largest_id();
        if largest_id as usize >= config.vocab_size {
            return Err(TextError::VocabularyMismatch {
                path: tokenizer.path().to_path_buf(),
                largest_id,
                vocab_size: config.vocab_size,
            });
        }
        Ok(Self {
            tokenizer,
            encoder,
            config,
            device: device.clone(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &PromptTokenizer {
        &self.tokenizer
    }

    /// The network.
    pub fn encoder(&self) -> &Umt5Encoder<B> {
        &self.encoder
    }

    /// Sizes of the network.
    pub fn config(&self) -> &Umt5Config {
        &self.config
    }
}

impl<B: KernelBackend> TextEncoder<B> {
    /// Loads `tokenizer/` and `text_encoder/` of the checkpoint directory `root`.
    ///
    /// # Errors
    /// [`TextError`] names the file and key; also when the tokenizer has ids that the encoder has
    /// no embedding for.
    pub fn load(
        root: &Path,
        load_as: impl Into<LoadAs>,
        device: &B::Device,
    ) -> Result<Self, TextError> {
        let (tokenizer, encoder) = (root.join("tokenizer"), root.join("text_encoder"));
        Self::load_parts(&tokenizer, &encoder, load_as, device)
    }

    /// Loads a tokenizer and an encoder from wherever each lies: see [`PromptTokenizer::load`] and
    /// [`Umt5Encoder::load`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_parts(
        tokenizer: &Path,
        encoder: &Path,
        load_as: impl Into<LoadAs>,
        device: &B::Device,
    ) -> Result<Self, TextError> {
        let tokenizer = PromptTokenizer::load(tokenizer)?;
        let (encoder, config) = Umt5Encoder::load(encoder, load_as, device)?;
        Self::new(tokenizer, encoder, config, device)
    }

    /// Cleans, tokenizes and encodes prompts, padded or cut to L = `max_length` tokens (512 in the
    /// released pipelines), or to the [most](PromptTokenizer::length) that the checkpoint takes.
    ///
    /// Gives `[n, 1, L, d_model]` in the type of the weights, and the mask `[n][L]`, true for real
    /// tokens.
    ///
    /// # Errors
    /// [`TextError::NoPrompts`] for an empty list, and those of [`PromptTokenizer::encode`].
    #[allow(clippy::type_complexity)]
    pub fn encode_prompts(
        &self,
        prompts: &[String],
        max_length: usize,
    ) -> Result<(Tensor<B, 4>, Vec<Vec<bool>>), TextError> {
        if prompts.is_empty() {
            return Err(TextError::NoPrompts);
        }
        let cleaned: Vec<String> = prompts.iter().map(|p| clean_prompt(p)).collect();
        let tokens = self
            .tokenizer
            .encode(&cleaned, self.tokenizer.length(max_length))?;
        let (ids, mask) = tokens.to_tensors(&self.device);
        let embeds = self.encoder.forward(ids, mask).unsqueeze_dim(1);
        Ok((embeds, tokens.mask))
    }
}
