//! Files of text encoders in other layouts than the official one, and the config that shapes tell.

use std::collections::BTreeSet;
use std::fmt;

use longcat_weights::{JsonConfig, NameMap, WeightFiles, WeightsError, other_model};

use crate::sentence_piece::TENSOR;
use crate::{TextError, Umt5Config};

/// What programs put before the names of a text encoder's weights.
const PREFIXES: &[&str] = &[
    "text_encoders.umt5xxl.transformer.",
    "text_encoder.",
    "model.",
    "module.",
];

const MODEL: &str = "the UMT5 text encoder";

/// Wan's names to the official ones.
const WAN: &[(&str, &str)] = &[
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.", "encoder.block.${1}."),
    (r"(block\.\d+)\.norm1\.", "${1}.layer.0.layer_norm."),
    (r"(block\.\d+)\.norm2\.", "${1}.layer.1.layer_norm."),
    (
        r"(block\.\d+)\.attn\.([qkvo])\.",
        "${1}.layer.0.SelfAttention.${2}.",
    ),
    (
        r"(block\.\d+)\.pos_embedding\.embedding\.",
        "${1}.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (
        r"(block\.\d+)\.ffn\.gate\.0\.",
        "${1}.layer.1.DenseReluDense.wi_0.",
    ),
    (
        r"(block\.\d+)\.ffn\.fc1\.",
        "${1}.layer.1.DenseReluDense.wi_1.",
    ),
    (
        r"(block\.\d+)\.ffn\.fc2\.",
        "${1}.layer.1.DenseReluDense.wo.",
    ),
];

/// llama.cpp's names to the official ones.
const LLAMA_CPP: &[(&str, &str)] = &[
    (r"^token_embd\.", "shared."),
    (r"^enc\.output_norm\.", "encoder.final_layer_norm."),
    (r"^enc\.blk\.(\d+)\.", "encoder.block.${1}."),
    (r"(block\.\d+)\.attn_norm\.", "${1}.layer.0.layer_norm."),
    (r"(block\.\d+)\.ffn_norm\.", "${1}.layer.1.layer_norm."),
    (
        r"(block\.\d+)\.attn_rel_b\.",
        "${1}.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (
        r"(block\.\d+)\.attn_([qkvo])\.",
        "${1}.layer.0.SelfAttention.${2}.",
    ),
    (
        r"(block\.\d+)\.ffn_gate\.",
        "${1}.layer.1.DenseReluDense.wi_0.",
    ),
    (
        r"(block\.\d+)\.ffn_up\.",
        "${1}.layer.1.DenseReluDense.wi_1.",
    ),
    (
        r"(block\.\d+)\.ffn_down\.",
        "${1}.layer.1.DenseReluDense.wo.",
    ),
];

/// Whose names the weights of a text encoder have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEncoderLayout {
    /// Hugging Face's, which the release has: `encoder.block.0.layer.0.SelfAttention.q`.
    HuggingFace,
    /// Wan's: `blocks.0.attn.q`.
    Wan,
    /// llama.cpp's, in GGUF files: `enc.blk.0.attn_q`.
    LlamaCpp,
}

impl fmt::Display for TextEncoderLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HuggingFace => "Hugging Face",
            Self::Wan => "Wan",
            Self::LlamaCpp => "llama.cpp",
        })
    }
}

/// The layout of the weights of a UMT5 encoder; `None` for files of something else.
pub fn text_encoder_layout(files: &WeightFiles) -> Option<TextEncoderLayout> {
    layout_of(&files.without_prefix(PREFIXES))
}

fn layout_of(files: &WeightFiles) -> Option<TextEncoderLayout> {
    let rows = [
        (
            TextEncoderLayout::HuggingFace,
            "encoder.block.0.layer.0.SelfAttention.q.weight",
        ),
        (
            TextEncoderLayout::Wan,
            "blocks.0.pos_embedding.embedding.weight",
        ),
        (TextEncoderLayout::LlamaCpp, "enc.blk.0.attn_q.weight"),
    ];
    let row = rows.iter().find(|(_, key)| files.info(key).is_some());
    row.map(|(layout, _)| *layout)
}

/// Whether a text encoder's file carries its tokenizer, which [`PromptTokenizer::load`] then reads from it.
///
/// [`PromptTokenizer::load`]: crate::PromptTokenizer::load
pub fn carries_tokenizer(files: &WeightFiles) -> bool {
    files.info(TENSOR).is_some()
}

/// The weights of a text encoder in any layout under their official names.
///
/// # Errors
/// [`WeightsError::OtherModel`] for weights of something else.
pub fn official_weights(files: &WeightFiles) -> Result<WeightFiles, WeightsError> {
    let other = |found: &str| WeightsError::OtherModel {
        path: files.path().to_path_buf(),
        found: found.into(),
        needed: MODEL,
    };
    if let Some(found) = other_model(files) {
        return Err(other(found));
    }
    let short = files.without_prefix(PREFIXES);
    let official = match layout_of(&short) {
        Some(TextEncoderLayout::Wan) => short.renamed(&NameMap::new(WAN))?,
        Some(TextEncoderLayout::LlamaCpp) => short.renamed(&NameMap::new(LLAMA_CPP))?,
        // What is not known is loaded as it is: the report then lists every key that does not fit.
        Some(TextEncoderLayout::HuggingFace) | None => short,
    };
    // T5 v1.1 and UMT5 differ in nothing but this.
    let bias = |block| {
        let layer = format!("encoder.block.{block}.layer.0.SelfAttention");
        let has = |name: &str| official.info(&format!("{layer}.{name}.weight")).is_some();
        (has("q"), has("relative_attention_bias"))
    };
    if bias(0) == (true, true) && bias(1) == (true, false) {
        return Err(other(
            "a T5 v1.1 text encoder (as Flux, SD3 and LTX-Video use), whose blocks share one position bias",
        ));
    }
    if official.info("shared.weight").is_none() {
        // Saved by the name of the second place where the same tensor stands.
        let names = NameMap::new(&[(r"^encoder\.embed_tokens\.", "shared.")]);
        return official.renamed(&names);
    }
    Ok(official)
}

impl Umt5Config {
    /// The sizes that weights under their official names tell; what they do not tell is as in UMT5-XXL.
    ///
    /// # Errors
    /// [`TextError::Weights`] when a decisive tensor is missing or misshaped, [`TextError::Config`] when
    /// the sizes do not fit each other.
    pub fn of_weights(official: &WeightFiles) -> Result<Self, TextError> {
        let matrix = |key: &str| official.shape_of::<2>(key, MODEL);
        let attention = "encoder.block.0.layer.0.SelfAttention";
        let [vocab_size, d_model] = matrix("shared.weight")?;
        let [inner, _] = matrix(&format!("{attention}.q.weight"))?;
        let [buckets, num_heads] = matrix(&format!("{attention}.relative_attention_bias.weight"))?;
        let [d_ff, _] = matrix("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
        let blocks = official.keys().filter_map(|key| {
            let number = key.strip_prefix("encoder.block.")?.split('.').next()?;
            number.parse::<usize>().ok()
        });
        let config = Self {
            vocab_size,
            d_model,
            d_kv: inner.checked_div(num_heads).unwrap_or(0),
            d_ff,
            num_layers: blocks.collect::<BTreeSet<_>>().len(),
            num_heads,
            relative_attention_num_buckets: buckets,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        };
        config.check(&JsonConfig::new(official.path(), serde_json::Map::new()))?;
        Ok(config)
    }

    /// The keys of an official `text_encoder/config.json` that [`Self::read`] turns back into this config.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["UMT5EncoderModel"],
            "model_type": "umt5",
            "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "gelu_new",
            "is_gated_act": true,
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "d_kv": self.d_kv,
            "d_ff": self.d_ff,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "relative_attention_num_buckets": self.relative_attention_num_buckets,
            "relative_attention_max_distance": self.relative_attention_max_distance,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        })
    }
}
