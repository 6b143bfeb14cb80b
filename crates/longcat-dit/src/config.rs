//! `dit/config.json`: the sizes of the transformer.

use std::path::Path;

use longcat_kernels::BsaParams;
use longcat_weights::{ConfigError, JsonConfig};
use serde::Serialize;

/// Keys of the official config that choose between equal implementations and change no number.
const WITHOUT_EFFECT: &[&str] = &[
    "enable_flashattn2",
    "enable_flashattn3",
    "enable_xformers",
    "cp_split_hw",
];

/// The official `dit/config.json`. Defaults are those of the official code; what it serialises to
/// is read back as it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DitConfig {
    /// Latent channels in.
    pub in_channels: usize,
    /// Latent channels out.
    pub out_channels: usize,
    /// Width of the token stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads (FastVideo's converted config calls them `num_attention_heads`).
    pub num_heads: usize,
    /// Width of the text embeddings.
    pub caption_channels: usize,
    /// Ratio that the SwiGLU width derives from.
    pub mlp_ratio: usize,
    /// Width of the timestep embedding.
    pub adaln_tembed_dim: usize,
    /// Width of the sinusoid of the timestep.
    pub frequency_embedding_size: usize,
    /// Patch size (t, h, w); t must be 1.
    pub patch_size: [usize; 3],
    /// Whether block-sparse attention starts switched on.
    pub enable_bsa: bool,
    /// Block-sparse attention parameters.
    pub bsa_params: Option<BsaParams>,
    /// Padded text tokens are zeroed and attended (true), or dropped (false).
    pub text_tokens_zero_pad: bool,
}

impl Default for DitConfig {
    fn default() -> Self {
        Self {
            in_channels: 16,
            out_channels: 16,
            hidden_size: 4096,
            depth: 48,
            num_heads: 32,
            caption_channels: 4096,
            mlp_ratio: 4,
            adaln_tembed_dim: 512,
            frequency_embedding_size: 256,
            patch_size: [1, 2, 2],
            enable_bsa: false,
            bsa_params: None,
            text_tokens_zero_pad: false,
        }
    }
}

impl DitConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names an unknown key, a wrong type or an unsupported value.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::from_json(JsonConfig::read(path)?)
    }

    /// Reads the keys of a parsed `config.json`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_json(mut json: JsonConfig) -> Result<Self, ConfigError> {
        json.ignore(|key, _| key.starts_with('_') || WITHOUT_EFFECT.contains(&key));
        // FastVideo's converted config has another name for it. With both, one stays unknown.
        let num_heads = match json.contains("num_attention_heads") {
            true => "num_attention_heads",
            false => "num_heads",
        };
        let default = Self::default();
        let config = Self {
            in_channels: json.take_or("in_channels", default.in_channels)?,
            out_channels: json.take_or("out_channels", default.out_channels)?,
            hidden_size: json.take_or("hidden_size", default.hidden_size)?,
            depth: json.take_or("depth", default.depth)?,
            num_heads: json.take_or(num_heads, default.num_heads)?,
            caption_channels: json.take_or("caption_channels", default.caption_channels)?,
            mlp_ratio: json.take_or("mlp_ratio", default.mlp_ratio)?,
            adaln_tembed_dim: json.take_or("adaln_tembed_dim", default.adaln_tembed_dim)?,
            frequency_embedding_size: json
                .take_or("frequency_embedding_size", default.frequency_embedding_size)?,
            patch_size: json.take_or("patch_size", default.patch_size)?,
            enable_bsa: json.take_or("enable_bsa", default.enable_bsa)?,
            bsa_params: json.take_or("bsa_params", default.bsa_params)?,
            text_tokens_zero_pad: json
                .take_or("text_tokens_zero_pad", default.text_tokens_zero_pad)?,
        };
        json.finish()?;
        config.check(&json)?;
        Ok(config)
    }

    fn check(&self, json: &JsonConfig) -> Result<(), ConfigError> {
        json.check_positive(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("hidden_size", self.hidden_size),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("caption_channels", self.caption_channels),
            ("mlp_ratio", self.mlp_ratio),
            ("adaln_tembed_dim", self.adaln_tembed_dim),
            ("frequency_embedding_size", self.frequency_embedding_size),
            ("patch_size", self.patch_size.iter().product()),
        ])?;
        if self.patch_size[0] != 1 {
            let size = format!("{:?}", self.patch_size);
            let supported = "a patch of one frame (patch_size [1, h, w])";
            return Err(json.unsupported("patch_size", size, supported));
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) || !self.head_dim().is_multiple_of(8) {
            let expected = format!(
                "hidden_size over num_heads ({}) must be a whole multiple of 8",
                self.num_heads
            );
            return Err(json.invalid("hidden_size", self.hidden_size, expected));
        }
        if self.enable_bsa && self.bsa_params.is_none() {
            return Err(json.invalid("enable_bsa", true, "bsa_params must then be given"));
        }
        Ok(())
    }

    /// Channels per attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Width of the SwiGLU hidden layer: two thirds of `mlp_ratio · hidden_size`, rounded up to a
    /// multiple of 256.
    pub fn ffn_dim(&self) -> usize {
        (2 * self.mlp_ratio * self.hidden_size / 3).next_multiple_of(256)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<DitConfig, ConfigError> {
        let keys = serde_json::from_str(text).unwrap();
        DitConfig::from_json(JsonConfig::new("config.json", keys))
    }

    #[test]
    fn the_released_size_has_the_published_widths() {
        let config = parse("{}").unwrap();
        assert_eq!((config.head_dim(), config.ffn_dim()), (128, 11008));
    }

    #[test]
    fn configs_survive_writing_and_reading() {
        let config = DitConfig {
            depth: 2,
            num_heads: 16,
            text_tokens_zero_pad: true,
            ..DitConfig::default()
        };
        assert_eq!(
            parse(&serde_json::to_string(&config).unwrap()).unwrap(),
            config
        );
    }

    #[test]
    fn unknown_and_impossible_values_are_named() {
        for (text, key) in [
            (r#"{"qk_bias": true}"#, "qk_bias"),
            (r#"{"depth": 0}"#, "depth"),
            (r#"{"num_heads": 7}"#, "num_heads"),
            (r#"{"patch_size": [2, 2, 2]}"#, "patch_size"),
            (r#"{"enable_bsa": true}"#, "bsa_params"),
            (r#"{"bsa_params": {"chunk": 1}}"#, "chunk"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(key), "{text}: {message}");
        }
        assert!(parse(r#"{"_class_name": "x", "enable_flashattn3": true}"#).is_ok());
        let fastvideo = parse(r#"{"num_attention_heads": 16}"#).unwrap();
        assert_eq!(fastvideo.num_heads, 16);
        assert!(parse(r#"{"num_attention_heads": 16, "num_heads": 16}"#).is_err());
    }
}
