use std::path::Path;

use serde_json::{Map, Value};

use crate::TextError;

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
    /// [`TextError`] names the file and the key: unreadable or malformed JSON, absent sizes, values
    /// that ask for another network than this one, unknown keys.
    pub fn read(path: &Path) -> Result<Self, TextError> {
        let text = std::fs::read_to_string(path).map_err(|cause| TextError::Io {
            path: path.to_path_buf(),
            cause,
        })?;
        let json: Value = serde_json::from_str(&text).map_err(|e| invalid(path, e.to_string()))?;
        let Value::Object(mut keys) = json else {
            return Err(invalid(path, "expected a JSON object".into()));
        };
        keys.retain(|key, _| !IRRELEVANT.contains(&key.as_str()));

        require(path, &mut keys, "model_type", "umt5")?;
        require(path, &mut keys, "feed_forward_proj", "gated-gelu")?;
        // Both keys restate feed_forward_proj; the second is written by older versions as well.
        require(path, &mut keys, "dense_act_fn", "gelu_new")?;
        require(path, &mut keys, "is_gated_act", true)?;
        require(path, &mut keys, "is_decoder", false)?;

        let mut size = |key: &str, default: Option<usize>| take_size(path, &mut keys, key, default);
        let config = Self {
            vocab_size: size("vocab_size", None)?,
            d_model: size("d_model", None)?,
            d_kv: size("d_kv", None)?,
            d_ff: size("d_ff", None)?,
            num_layers: size("num_layers", None)?,
            num_heads: size("num_heads", None)?,
            relative_attention_num_buckets: size("relative_attention_num_buckets", Some(32))?,
            relative_attention_max_distance: size("relative_attention_max_distance", Some(128))?,
            layer_norm_epsilon: take_epsilon(path, &mut keys)?,
        };
        if let Some(key) = keys.keys().next() {
            return Err(TextError::UnknownConfigKey {
                path: path.to_path_buf(),
                key: key.clone(),
            });
        }
        config.check().map_err(|reason| invalid(path, reason))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let (buckets, distance) = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        );
        if buckets < 4 || buckets % 4 != 0 {
            return Err(format!(
                "relative_attention_num_buckets is {buckets}; it must be a multiple of 4"
            ));
        }
        if distance <= buckets / 4 {
            return Err(format!(
                "relative_attention_max_distance is {distance}; it must exceed a quarter of relative_attention_num_buckets ({buckets})"
            ));
        }
        Ok(())
    }

    /// Width of all heads together.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }
}

/// Removes `key`, which must be absent or hold the one supported value.
fn require(
    path: &Path,
    keys: &mut Map<String, Value>,
    key: &str,
    supported: impl Into<Value>,
) -> Result<(), TextError> {
    let supported = supported.into();
    match keys.remove(key) {
        Some(value) if value != supported => Err(TextError::UnsupportedConfig {
            path: path.to_path_buf(),
            key: key.into(),
            value: value.to_string(),
            supported: supported.to_string(),
        }),
        _ => Ok(()),
    }
}

fn take_size(
    path: &Path,
    keys: &mut Map<String, Value>,
    key: &str,
    default: Option<usize>,
) -> Result<usize, TextError> {
    let Some(value) = keys.remove(key) else {
        return default.ok_or_else(|| invalid(path, format!("{key} is missing")));
    };
    match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
        Some(n) if n > 0 => Ok(n),
        _ => Err(invalid(
            path,
            format!("{key} is {value}; expected a positive integer"),
        )),
    }
}

fn take_epsilon(path: &Path, keys: &mut Map<String, Value>) -> Result<f64, TextError> {
    const KEY: &str = "layer_norm_epsilon";
    let Some(value) = keys.remove(KEY) else {
        return Ok(1e-6);
    };
    match value.as_f64() {
        Some(epsilon) if epsilon > 0.0 => Ok(epsilon),
        _ => Err(invalid(
            path,
            format!("{KEY} is {value}; expected a positive number"),
        )),
    }
}

fn invalid(path: &Path, reason: String) -> TextError {
    TextError::InvalidConfig {
        path: path.to_path_buf(),
        reason,
    }
}
