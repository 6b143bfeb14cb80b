use std::path::Path;

use longcat_kernels::BsaParams;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::DitError;

/// Keys of the official config that choose between equal implementations and change no number.
const WITHOUT_EFFECT: &[&str] = &[
    "enable_flashattn2",
    "enable_flashattn3",
    "enable_xformers",
    "cp_split_hw",
];

/// The official `dit/config.json`. Defaults are those of the official code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    #[serde(alias = "num_attention_heads")]
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
    /// [`DitError::Config`] names an unknown key, a wrong type or an unsupported value.
    pub fn read(path: &Path) -> Result<Self, DitError> {
        let text = std::fs::read_to_string(path).map_err(|cause| DitError::Io {
            path: path.to_path_buf(),
            cause,
        })?;
        let config = |reason: String| DitError::Config {
            path: path.to_path_buf(),
            reason,
        };
        let json: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| config(e.to_string()))?;
        Self::from_json(json).map_err(config)
    }

    /// Reads the keys of a parsed `config.json`.
    ///
    /// # Errors
    /// A message that names the key.
    pub fn from_json(mut json: Map<String, Value>) -> Result<Self, String> {
        json.retain(|key, _| !key.starts_with('_') && !WITHOUT_EFFECT.contains(&key.as_str()));
        let config: Self =
            serde_json::from_value(Value::Object(json)).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let positive = [
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
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key} must be positive"));
        }
        if self.patch_size[0] != 1 {
            return Err(format!(
                "patch_size {:?}: patches over several frames are not supported",
                self.patch_size
            ));
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) || !self.head_dim().is_multiple_of(8) {
            return Err(format!(
                "hidden_size {} over num_heads {} must give a head width that is a multiple of 8",
                self.hidden_size, self.num_heads
            ));
        }
        if self.enable_bsa && self.bsa_params.is_none() {
            return Err("enable_bsa is true and bsa_params is absent".into());
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

    fn parse(text: &str) -> Result<DitConfig, String> {
        DitConfig::from_json(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn the_released_size_has_the_published_widths() {
        let config = parse("{}").unwrap();
        assert_eq!((config.head_dim(), config.ffn_dim()), (128, 11008));
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
            let message = parse(text).unwrap_err();
            assert!(message.contains(key), "{text}: {message}");
        }
        assert!(parse(r#"{"_class_name": "x", "enable_flashattn3": true}"#).is_ok());
    }
}
