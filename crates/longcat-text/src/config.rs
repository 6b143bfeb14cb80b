//! `text_encoder/config.json`: the sizes of the text encoder.

use std::path::Path;

use longcat_weights::{ConfigError, JsonConfig};

/// The network behind `text_encoder/config.json` (Hugging Face `UMT5EncoderModel`).
#[derive(Debug, Clone, PartialEq)]
pub struct Umt5Config {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one attention head; `num_heads * d_kv` need not equal `d_model`.
    pub d_kv: usize,
    /// Inner width of the gated feed-forward layer.
    pub d_ff: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads per block.
    pub num_heads: usize,
    /// Buckets of the relative position bias, both directions together.
    pub relative_attention_num_buckets: usize,
    /// Distance in tokens from which on all positions share the last bucket.
    pub relative_attention_max_distance: usize,
    /// Added to the mean square before the root in the RMS norms.
    pub layer_norm_epsilon: f64,
}

/// Keys that say nothing about what the encoder computes at inference.
const IRRELEVANT: &[&str] = &[
    "_name_or_path",
    "architectures",
    "classifier_dropout",
    "decoder_start_token_id",
    "dropout_rate",
    "dtype",
    "eos_token_id",
    "initializer_factor",
    "is_encoder_decoder",
    "num_decoder_layers",
    "output_past",
    "pad_token_id",
    "scalable_attention",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

impl Umt5Config {
    /// Reads the official `text_encoder/config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the key: unreadable or malformed JSON, absent sizes,
    /// values that ask for another network than this one, unknown keys.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut keys = JsonConfig::read(path)?;
        keys.ignore(|key, _| IRRELEVANT.contains(&key));

        keys.require("model_type", "umt5")?;
        keys.require("feed_forward_proj", "gated-gelu")?;
        // Both keys restate feed_forward_proj; the second is written by older versions as well.
        keys.require("dense_act_fn", "gelu_new")?;
        keys.require("is_gated_act", true)?;
        keys.require("is_decoder", false)?;

        let config = Self {
            vocab_size: keys.take("vocab_size")?,
            d_model: keys.take("d_model")?,
            d_kv: keys.take("d_kv")?,
            d_ff: keys.take("d_ff")?,
            num_layers: keys.take("num_layers")?,
            num_heads: keys.take("num_heads")?,
            relative_attention_num_buckets: keys.take_or("relative_attention_num_buckets", 32)?,
            relative_attention_max_distance: keys
                .take_or("relative_attention_max_distance", 128)?,
            layer_norm_epsilon: keys.take_or("layer_norm_epsilon", 1e-6)?,
        };
        keys.finish()?;
        config.check(&keys)?;
        Ok(config)
    }

    pub(crate) fn check(&self, keys: &JsonConfig) -> Result<(), ConfigError> {
        const BUCKETS: &str = "relative_attention_num_buckets";
        const DISTANCE: &str = "relative_attention_max_distance";
        let (buckets, distance) = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        );
        keys.check_positive(&[
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            (BUCKETS, buckets),
        ])?;
        if buckets % 4 != 0 {
            return Err(keys.invalid(BUCKETS, buckets, "it must be a multiple of 4"));
        }
        if distance <= buckets / 4 {
            let expected = format!("it must exceed a quarter of {BUCKETS} ({buckets})");
            return Err(keys.invalid(DISTANCE, distance, expected));
        }
        let epsilon = self.layer_norm_epsilon;
        if epsilon.is_nan() || epsilon <= 0.0 {
            return Err(keys.invalid("layer_norm_epsilon", epsilon, "it must be positive"));
        }
        Ok(())
    }

    /// Width of all heads together.
    pub(crate) fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }
}
