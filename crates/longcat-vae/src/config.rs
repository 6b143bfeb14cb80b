//! `vae/config.json`: the sizes of the VAE and the statistics of its latents.

use std::path::Path;

use longcat_weights::{ConfigError, JsonConfig};
use serde_json::Value;

use crate::LatentColours;

/// The network behind `vae/config.json` (diffusers' `AutoencoderKLWan`).
#[derive(Debug, Clone, PartialEq)]
pub struct WanVaeConfig {
    /// Channels of the encoder at full resolution; `dim_mult` multiplies it.
    pub base_dim: usize,
    /// Channels of the decoder at full resolution.
    pub decoder_base_dim: usize,
    /// Channels of the latents.
    pub z_dim: usize,
    /// Width of every resolution, from the largest picture to the smallest.
    pub dim_mult: Vec<usize>,
    /// Residual blocks per resolution of the encoder (the decoder has one more).
    pub num_res_blocks: usize,
    /// For each step to a smaller picture: whether it also halves the frame rate.
    pub temperal_downsample: Vec<bool>,
    /// Mean of every latent channel.
    pub latents_mean: Vec<f32>,
    /// Standard deviation of every latent channel.
    pub latents_std: Vec<f32>,
    /// Channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Channels of the pictures that are decoded.
    pub out_channels: usize,
    /// Pixels per latent along height and along width.
    pub scale_factor_spatial: usize,
    /// Frames per latent frame, after the first.
    pub scale_factor_temporal: usize,
    /// Colours of the latents, where the config has them ([`Self::latent_colours`]).
    pub colours: Option<LatentColours>,
}

/// A key of our own, which diffusers passes over for its first letter.
const COLOURS: &str = "_latent_colours";

const LATENTS_MEAN: [f32; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
    -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
];
const LATENTS_STD: [f32; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
    1.6382, 1.1253, 2.8251, 1.916,
];

impl Default for WanVaeConfig {
    /// The released Wan 2.1 VAE, which is also what absent keys of a config mean.
    fn default() -> Self {
        Self {
            base_dim: 96,
            decoder_base_dim: 96,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            temperal_downsample: vec![false, true, true],
            latents_mean: LATENTS_MEAN.to_vec(),
            latents_std: LATENTS_STD.to_vec(),
            in_channels: 3,
            out_channels: 3,
            scale_factor_spatial: 8,
            scale_factor_temporal: 4,
            colours: None,
        }
    }
}

impl WanVaeConfig {
    /// Reads an official `vae/config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the key: unreadable or malformed JSON, values of the
    /// wrong type, values that contradict each other or ask for another network, unknown keys.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut keys = JsonConfig::read(path)?;
        keys.require("_class_name", "AutoencoderKLWan")?;
        keys.require("is_residual", false)?;
        keys.require("patch_size", Value::Null)?;
        keys.require("attn_scales", Value::Array(Vec::new()))?;
        // Dropout acts in training only, and would be missed there.
        keys.require("dropout", 0.0)?;
        let colours = keys.take_or(COLOURS, None)?;
        keys.ignore(|key, _| key.starts_with('_'));

        let default = Self::default();
        let base_dim = keys.take_or("base_dim", default.base_dim)?;
        let config = Self {
            base_dim,
            decoder_base_dim: keys.take_or("decoder_base_dim", None)?.unwrap_or(base_dim),
            z_dim: keys.take_or("z_dim", default.z_dim)?,
            dim_mult: keys.take_or("dim_mult", default.dim_mult)?,
            num_res_blocks: keys.take_or("num_res_blocks", default.num_res_blocks)?,
            temperal_downsample: keys
                .take_or("temperal_downsample", default.temperal_downsample)?,
            latents_mean: keys.take_or("latents_mean", default.latents_mean)?,
            latents_std: keys.take_or("latents_std", default.latents_std)?,
            in_channels: keys.take_or("in_channels", default.in_channels)?,
            out_channels: keys.take_or("out_channels", default.out_channels)?,
            scale_factor_spatial: keys
                .take_or("scale_factor_spatial", default.scale_factor_spatial)?,
            scale_factor_temporal: keys
                .take_or("scale_factor_temporal", default.scale_factor_temporal)?,
            colours,
        };
        keys.finish()?;
        config.check(&keys)?;
        Ok(config)
    }

    /// The keys of an official `vae/config.json` that [`Self::read`] turns back into this config.
    pub fn to_json(&self) -> Value {
        // Through text, so that 0.1 stays 0.1 and does not become the nearest f32 in full.
        let numbers = |values: &[f32]| -> Value {
            values
                .iter()
                .map(|v| v.to_string().parse::<f64>().unwrap_or(f64::from(*v)))
                .collect()
        };
        let mut json = serde_json::json!({
            "_class_name": "AutoencoderKLWan",
            "attn_scales": [],
            "base_dim": self.base_dim,
            "decoder_base_dim": self.decoder_base_dim,
            "dim_mult": self.dim_mult,
            "dropout": 0.0,
            "in_channels": self.in_channels,
            "is_residual": false,
            "latents_mean": numbers(&self.latents_mean),
            "latents_std": numbers(&self.latents_std),
            "num_res_blocks": self.num_res_blocks,
            "out_channels": self.out_channels,
            "patch_size": null,
            "scale_factor_spatial": self.scale_factor_spatial,
            "scale_factor_temporal": self.scale_factor_temporal,
            "temperal_downsample": self.temperal_downsample,
            "z_dim": self.z_dim,
        });
        if let Some(colours) = &self.colours {
            let factors = colours.factors.iter().map(|parts| numbers(parts));
            json[COLOURS] = serde_json::json!({
                "factors": factors.collect::<Value>(),
                "bias": numbers(&colours.bias),
            });
        }
        json
    }

    /// A linear map from latents to colours that fits this VAE: the config's, or that of the release for
    /// latents with its statistics. None is known for others.
    pub fn latent_colours(&self) -> Option<LatentColours> {
        let released = self.latents_mean == LATENTS_MEAN.as_slice()
            && self.latents_std == LATENTS_STD.as_slice();
        let default = || released.then(LatentColours::released);
        self.colours.clone().or_else(default)
    }

    /// Latent frames of a clip of `frames` pictures: one for the first, then one for every whole
    /// group; frames that do not fill a group are dropped.
    pub fn latent_frames(&self, frames: usize) -> usize {
        match frames {
            0 => 0,
            _ => 1 + (frames - 1) / self.scale_factor_temporal,
        }
    }

    /// Pictures that `latent_frames` decode to.
    pub fn frames(&self, latent_frames: usize) -> usize {
        match latent_frames {
            0 => 0,
            _ => 1 + (latent_frames - 1) * self.scale_factor_temporal,
        }
    }

    pub(crate) fn check(&self, keys: &JsonConfig) -> Result<(), ConfigError> {
        keys.check_positive(&[
            ("base_dim", self.base_dim),
            ("decoder_base_dim", self.decoder_base_dim),
            ("z_dim", self.z_dim),
            ("num_res_blocks", self.num_res_blocks),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
        ])?;
        if self.dim_mult.is_empty() || self.dim_mult.contains(&0) {
            let value = format!("{:?}", self.dim_mult);
            return Err(keys.invalid("dim_mult", value, "expected a list of positive integers"));
        }
        let steps = self.dim_mult.len() - 1;
        if self.temperal_downsample.len() != steps {
            let expected = format!(
                "dim_mult has {} entries, so {steps} are needed",
                self.dim_mult.len()
            );
            let value = format!("{:?}", self.temperal_downsample);
            return Err(keys.invalid("temperal_downsample", value, expected));
        }
        let halvings = self.temperal_downsample.iter().filter(|t| **t).count();
        for (key, factor, halvings) in [
            ("scale_factor_spatial", self.scale_factor_spatial, steps),
            (
                "scale_factor_temporal",
                self.scale_factor_temporal,
                halvings,
            ),
        ] {
            let made = u32::try_from(halvings).map(|n| 2usize.checked_pow(n));
            if made != Ok(Some(factor)) {
                let expected = format!("dim_mult and temperal_downsample make it 2^{halvings}");
                return Err(keys.invalid(key, factor, expected));
            }
        }
        for (key, values) in [
            ("latents_mean", &self.latents_mean),
            ("latents_std", &self.latents_std),
        ] {
            if values.len() != self.z_dim {
                let value = format!("a list of {}", values.len());
                let expected = format!("z_dim is {}, one for each channel", self.z_dim);
                return Err(keys.invalid(key, value, expected));
            }
            if values.iter().any(|v| !v.is_finite()) {
                let value = format!("{values:?}");
                return Err(keys.invalid(key, value, "every entry must be finite"));
            }
        }
        if let Some(colours) = &self.colours {
            let (count, z_dim) = (colours.factors.len(), self.z_dim);
            if count != z_dim {
                let expected = format!("z_dim is {z_dim}, three factors for each channel");
                return Err(keys.invalid(COLOURS, format!("a list of {count}"), expected));
            }
            let mut values = colours.factors.iter().flatten().chain(&colours.bias);
            if values.any(|v| !v.is_finite()) {
                return Err(keys.invalid(COLOURS, "not finite", "every entry must be finite"));
            }
        }
        if self.latents_std.iter().any(|v| *v <= 0.0) {
            let value = format!("{:?}", self.latents_std);
            return Err(keys.invalid("latents_std", value, "every entry must be positive"));
        }
        Ok(())
    }
}
