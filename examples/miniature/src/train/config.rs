//! The configuration: that of the product, with a section of the laboratory's own.

use std::path::Path;

use longcat_train::{Mode, Objective, Precision, TrainConfig, TrainError};
use serde::{Deserialize, Serialize};
use toml::Table;

/// The section's name.
const SECTION: &str = "miniature";

/// A run of the laboratory.
#[derive(Debug, Clone)]
pub struct MiniatureConfig {
    /// What every training run has.
    pub run: TrainConfig,
    /// What only this one has.
    pub laboratory: Laboratory,
}

/// `[miniature]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Laboratory {
    /// Draw all weights anew, by the configs of the checkpoint alone (not for adapters).
    pub random_weights: bool,
    /// Train the text encoder with the transformer (mode "full").
    pub train_text_encoder: bool,
    /// Guidance scale with which predictions are to fit the clips; 1 for the plain ones.
    pub guidance: f64,
    /// Share of the continuing batches whose condition frames are as the model makes them in
    /// training, faults included; the rest have the frames of the clip.
    pub model_continuation: f64,
    /// Guidance scale with which it makes them; 1 for none.
    pub model_guidance: f64,
    /// Train the VAE, and nothing else.
    pub vae: Option<VaeConfig>,
}

impl Default for Laboratory {
    fn default() -> Self {
        Self {
            random_weights: false,
            train_text_encoder: false,
            guidance: 1.0,
            model_continuation: 0.0,
            model_guidance: 1.0,
            vae: None,
        }
    }
}

/// `[miniature.vae]`: mean absolute error, and what is added to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// Weight of the posterior's divergence from a standard normal.
    pub kl_weight: f64,
    /// Weight of the mean squared error. It counts where errors are large: along edges.
    pub mse_weight: f64,
    /// Type of activations; weights are f32.
    pub precision: Precision,
    /// Leave the encoder and the latent statistics as they are, so that transformers trained on
    /// these latents stay valid.
    pub decoder_only: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            kl_weight: 1e-6,
            mse_weight: 0.0,
            precision: Precision::F32,
            decoder_only: false,
        }
    }
}

impl MiniatureConfig {
    /// Reads and checks a configuration. Relative paths become relative to its folder;
    /// `default_checkpoint` is the base model of a file that names none.
    ///
    /// # Errors
    /// [`TrainError::Config`] names the key; [`TrainError::Io`].
    pub fn read(path: &Path, default_checkpoint: Option<&Path>) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io(path, e))?;
        let mut config = Self::parse(&text, path)?;
        if let (None, Some(checkpoint)) = (&config.run.model.checkpoint, default_checkpoint) {
            config.run = config.run.with_checkpoint(checkpoint);
        }
        Ok(config)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, TrainError> {
        let fail = |key: &str, reason: String| TrainError::Config {
            path: path.to_path_buf(),
            key: key.into(),
            reason,
        };
        let mut table: Table = toml::from_str(text).map_err(|e| fail("TOML", e.to_string()))?;
        let Some(section) = table.remove(SECTION) else {
            return Ok(Self {
                run: TrainConfig::parse(text, path)?,
                laboratory: Laboratory::default(),
            });
        };
        let laboratory: Laboratory = section
            .try_into()
            .map_err(|e: toml::de::Error| fail(SECTION, e.to_string()))?;
        let rest = toml::to_string(&table).map_err(|e| fail("TOML", e.to_string()))?;
        let mut run = TrainConfig::parse(&rest, path)?;
        run.text = text.to_string();
        let settings =
            serde_json::to_value(&laboratory).map_err(|e| fail(SECTION, e.to_string()))?;
        let config = Self {
            run: run.with_settings(SECTION, settings),
            laboratory,
        };
        config
            .check()
            .map_err(|(key, reason)| fail(&format!("{SECTION}.{key}"), reason.into()))?;
        Ok(config)
    }

    /// What cannot work, by key.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let own = &self.laboratory;
        for (key, scale) in [
            ("guidance", own.guidance),
            ("model_guidance", own.model_guidance),
        ] {
            if !(scale.is_finite() && scale >= 1.0) {
                return Err((key, "must be 1 or above"));
            }
        }
        if !(0.0..=1.0).contains(&own.model_continuation) {
            return Err(("model_continuation", "must be a share, 0 to 1"));
        }
        if own.guidance > 1.0 && self.run.caption_dropout == 0.0 {
            let reason = "needs predictions without caption; set objective.caption_dropout above 0";
            return Err(("guidance", reason));
        }
        if own.guidance > 1.0 && matches!(self.run.objective, Objective::Distill { .. }) {
            let reason = "what is distilled is used without guidance; leave it at 1";
            return Err(("guidance", reason));
        }
        if own.train_text_encoder && self.run.mode != Mode::Full {
            let reason = "the text encoder is trained with a whole transformer, mode = \"full\"";
            return Err(("train_text_encoder", reason));
        }
        match &own.vae {
            None if own.random_weights && self.run.mode == Mode::Lora => {
                Err(("random_weights", "an adapter needs the weights it adapts"))
            }
            Some(vae) if vae.decoder_only && own.random_weights => {
                Err(("vae.decoder_only", "needs a trained encoder"))
            }
            Some(vae) if !(vae.kl_weight >= 0.0 && vae.kl_weight.is_finite()) => {
                Err(("vae.kl_weight", "must be 0 or above"))
            }
            Some(vae) if !(vae.mse_weight >= 0.0 && vae.mse_weight.is_finite()) => {
                Err(("vae.mse_weight", "must be 0 or above"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(extra: &str) -> Result<MiniatureConfig, TrainError> {
        let text = format!("output = 'run'\ndata.path = 'clips'\n{extra}");
        MiniatureConfig::parse(&text, Path::new("/x/run.toml"))
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        for (extra, key) in [
            ("miniature.guidance = 0.5", "miniature.guidance"),
            ("miniature.model_guidance = 0.5", "miniature.model_guidance"),
            (
                "miniature.model_continuation = -0.1",
                "miniature.model_continuation",
            ),
            (
                "miniature.guidance = 2.0\nobjective.caption_dropout = 0.0",
                "miniature.guidance",
            ),
            (
                "miniature.guidance = 2.0\ndistill.guidance = 4.0",
                "miniature.guidance",
            ),
            (
                "miniature.random_weights = true",
                "miniature.random_weights",
            ),
            (
                "miniature.train_text_encoder = true",
                "miniature.train_text_encoder",
            ),
            ("miniature.gidance = 1.0", "gidance"),
            (
                "[miniature.vae]\nkl_weight = -1.0",
                "miniature.vae.kl_weight",
            ),
        ] {
            let message = parse(extra).unwrap_err().to_string();
            assert!(message.contains(key), "{extra}: {message}");
        }
    }

    #[test]
    fn the_rest_is_a_configuration_of_the_product() {
        let config = parse("miniature.guidance = 1.5\nlora.rank = 4").unwrap();
        assert_eq!(config.laboratory.guidance, 1.5);
        assert_eq!(config.run.lora.adapter.rank, 4);
        assert!(config.run.text.contains("miniature.guidance"));
        assert_eq!(config.run.data.path, Path::new("/x/clips"));
    }
}
