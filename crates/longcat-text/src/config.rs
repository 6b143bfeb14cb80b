//! `text_encoder/config.json`: the sizes of the text encoder.

use std::path::Path;

use longcat_weights::{ConfigError, JsonConfig};
use serde_json::{Map, Value};

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

/// Keys that older versions of transformers write into every config, with the values that they have where
/// nobody chose any: of outputs, of labels, and of generating text.
const DEFAULTS: &str = r#"{
    "add_cross_attention": false, "bad_words_ids": null, "begin_suppress_tokens": null,
    "bos_token_id": null, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": null,
    "diversity_penalty": 0.0, "do_sample": false, "early_stopping": false,
    "encoder_no_repeat_ngram_size": 0, "exponential_decay_length_penalty": null,
    "finetuning_task": null, "forced_bos_token_id": null, "forced_eos_token_id": null,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0,
    "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "output_attentions": false,
    "output_hidden_states": false, "output_scores": false, "prefix": null, "problem_type": null,
    "pruned_heads": {}, "remove_invalid_values": false, "repetition_penalty": 1.0,
    "return_dict": true, "return_dict_in_generate": false, "sep_token_id": null,
    "suppress_tokens": null, "task_specific_params": null, "temperature": 1.0,
    "tf_legacy_loss": false, "tie_encoder_decoder": false, "top_k": 50, "top_p": 1.0,
    "torchscript": false, "typical_p": 1.0, "use_bfloat16": false
}"#;

impl Default for Umt5Config {
    /// UMT5-XXL, which the released checkpoint has.
    fn default() -> Self {
        Self {
            vocab_size: 256_384,
            d_model: 4096,
            d_kv: 64,
            d_ff: 10_240,
            num_layers: 24,
            num_heads: 64,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        }
    }
}

impl Umt5Config {
    /// Reads the official `text_encoder/config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the key: unreadable or malformed JSON, absent sizes,
    /// values that ask for another network than this one, unknown keys.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut keys = JsonConfig::read(path)?;
        let defaults: Map<String, Value> = serde_json::from_str(DEFAULTS).unwrap_or_default();
        keys.ignore(|key, value| {
            let default = defaults.get(key) == Some(value);
            default || key.starts_with('_') || IRRELEVANT.contains(&key)
        });

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
