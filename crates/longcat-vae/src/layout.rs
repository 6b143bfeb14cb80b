//! Files of VAEs in other layouts than the official one, and the config that shapes tell.

use std::fmt;
use std::path::Path;

use longcat_weights::{JsonConfig, NameMap, WeightFiles, WeightsError, other_model};

use crate::{VaeError, WanVaeConfig};

/// What programs put before the names of a VAE's weights.
const PREFIXES: &[&str] = &["first_stage_model.", "vae.", "model.", "module."];

const MODEL: &str = "the Wan 2.1 VAE";

/// Wan's own names to those of diffusers, but for the flat list of the decoder's blocks.
///
/// Source: the converter of the Wan VAE in diffusers.
const WAN: &[(&str, &str)] = &[
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", "${1}.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", "${1}.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", "${1}.conv_out."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
];

/// Whose names the weights of a VAE have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaeLayout {
    /// Those of diffusers, which the release has: `decoder.up_blocks.0.resnets.0.conv1`.
    Diffusers,
    /// Wan's own: `decoder.upsamples.0.residual.2`.
    Wan,
}

impl fmt::Display for VaeLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::Wan => "Wan",
        })
    }
}

/// The layout of the weights of a Wan 2.1 VAE; `None` for files of something else.
pub fn vae_layout(files: &WeightFiles) -> Option<VaeLayout> {
    if other_model(files).is_some() {
        return None;
    }
    layout_of(&files.without_prefix(PREFIXES))
}

fn layout_of(files: &WeightFiles) -> Option<VaeLayout> {
    let has = |key: &str| files.info(key).is_some();
    if has("decoder.middle.0.residual.0.gamma") {
        Some(VaeLayout::Wan)
    } else if has("decoder.mid_block.resnets.0.norm1.gamma") && has("post_quant_conv.weight") {
        Some(VaeLayout::Diffusers)
    } else {
        None
    }
}

/// The weights of a VAE in any layout under their official names.
///
/// # Errors
/// [`WeightsError::OtherModel`] for weights of something else.
pub fn official_weights(files: &WeightFiles) -> Result<WeightFiles, WeightsError> {
    if let Some(found) = other_model(files) {
        return Err(WeightsError::OtherModel {
            path: files.path().to_path_buf(),
            found: found.into(),
            needed: MODEL,
        });
    }
    let files = files.without_prefix(PREFIXES);
    match layout_of(&files) {
        Some(VaeLayout::Wan) => {
            let mut rules: Vec<(String, String)> = decoder_blocks(&files);
            rules.extend(WAN.iter().map(|(a, b)| (a.to_string(), b.to_string())));
            let rules: Vec<(&str, &str)> = rules
                .iter()
                .map(|(from, to)| (from.as_str(), to.as_str()))
                .collect();
            files.renamed(&NameMap::new(&rules))
        }
        // What is not known is loaded as it is: the report then lists every key that does not fit.
        Some(VaeLayout::Diffusers) | None => Ok(files),
    }
}

/// Rules for Wan's flat list of the decoder's blocks: of every resolution first its residual blocks,
/// then, but for the last, the way to the next.
fn decoder_blocks(files: &WeightFiles) -> Vec<(String, String)> {
    let mut rules = Vec::new();
    let (mut level, mut resnet) = (0, 0);
    for index in 0.. {
        let block = format!("decoder.upsamples.{index}.");
        let is = |name: &str| {
            files
                .keys()
                .any(|key| key.starts_with(&format!("{block}{name}")))
        };
        let target = if is("residual.") {
            resnet += 1;
            format!("decoder.up_blocks.{level}.resnets.{}.", resnet - 1)
        } else if is("resample.") {
            (level, resnet) = (level + 1, 0);
            format!("decoder.up_blocks.{}.upsamplers.0.", level - 1)
        } else {
            break;
        };
        rules.push((format!("^{}", block.replace('.', r"\.")), target));
    }
    rules
}

impl WanVaeConfig {
    /// The config of weights: `config.json` of a directory, else what [`Self::of_weights`] tells.
    ///
    /// # Errors
    /// [`VaeError`] names file and key.
    pub fn beside(path: &Path, official: &WeightFiles) -> Result<Self, VaeError> {
        let file = path.join("config.json");
        match file.is_file() {
            true => Ok(Self::read(&file)?),
            false => Self::of_weights(official),
        }
    }

    /// The config that shapes of weights under their official names tell; the statistics of latents,
    /// which they do not tell, are those of the Wan 2.1 VAE.
    ///
    /// # Errors
    /// [`VaeError::Weights`] when a decisive tensor is missing or misshaped, [`VaeError::Config`] when
    /// the sizes do not fit each other.
    pub fn of_weights(official: &WeightFiles) -> Result<Self, VaeError> {
        let conv = |key: &str| -> Result<[usize; 2], WeightsError> {
            let [output, input, _, _, _] = official.shape_of(key, MODEL)?;
            Ok([output, input])
        };
        let [base_dim, in_channels] = conv("encoder.conv_in.weight")?;
        let [z_dim, _] = conv("post_quant_conv.weight")?;
        let [decoder_top, _] = conv("decoder.conv_in.weight")?;
        let [out_channels, _] = conv("decoder.conv_out.weight")?;
        let mut config = Self {
            base_dim,
            z_dim,
            in_channels,
            out_channels,
            dim_mult: Vec::new(),
            num_res_blocks: 0,
            temperal_downsample: Vec::new(),
            ..Self::default()
        };
        let has = |key: String| official.info(&key).is_some();
        let mut blocks = 0;
        let mut width = base_dim;
        for index in 0.. {
            let block = format!("encoder.down_blocks.{index}");
            if has(format!("{block}.resample.1.weight")) {
                config
                    .dim_mult
                    .push(width.checked_div(base_dim).unwrap_or(0));
                config
                    .temperal_downsample
                    .push(has(format!("{block}.time_conv.weight")));
                (config.num_res_blocks, blocks) = (blocks, 0);
            } else if has(format!("{block}.conv1.weight")) {
                [width, _] = conv(&format!("{block}.conv1.weight"))?;
                blocks += 1;
            } else {
                break;
            }
        }
        config
            .dim_mult
            .push(width.checked_div(base_dim).unwrap_or(0));
        config.num_res_blocks = config.num_res_blocks.max(blocks);
        let last = config.dim_mult.last().copied().unwrap_or(0);
        config.decoder_base_dim = decoder_top.checked_div(last).unwrap_or(0);
        let power = |n: usize| u32::try_from(n).ok().and_then(|n| 2usize.checked_pow(n));
        let halvings = config.temperal_downsample.iter().filter(|t| **t).count();
        config.scale_factor_spatial = power(config.temperal_downsample.len()).unwrap_or(0);
        config.scale_factor_temporal = power(halvings).unwrap_or(0);
        config.check(&JsonConfig::new(official.path(), serde_json::Map::new()))?;
        Ok(config)
    }
}
