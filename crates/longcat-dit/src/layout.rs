//! Files of weights in other layouts than the official one, and the config that shapes tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use longcat_kernels::{BsaParams, EmptySelection};
use longcat_weights::{
    ConfigError, JsonConfig, KIJAI_LAYERS, NameMap, WeightFiles, WeightsError, other_model,
};

use crate::names::from_fastvideo;
use crate::{DitConfig, DitError};

/// What programs put before the names of a transformer's weights.
const PREFIXES: &[&str] = &[
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "model.",
    "module.",
];

/// A string of safetensors files that `longcat convert` writes: the config, as JSON.
const CONFIG: &str = "longcat.config";

const MODEL: &str = "the LongCat-Video transformer";

/// Whose names the weights of a transformer have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformerLayout {
    /// The release's: `x_embedder.proj`, `blocks.0.attn.qkv`.
    Official,
    /// FastVideo's: `patch_embed.proj`, `blocks.0.self_attn.to_q`.
    FastVideo,
    /// Those of Kijai's ComfyUI nodes: `patch_embedding`, `blocks.0.self_attn.q`.
    Kijai,
}

impl fmt::Display for TransformerLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Official => "official",
            Self::FastVideo => "FastVideo",
            Self::Kijai => "Kijai (ComfyUI)",
        })
    }
}

/// The layout of the weights of a LongCat-Video transformer; `None` for files of something else.
pub fn transformer_layout(files: &WeightFiles) -> Option<TransformerLayout> {
    if other_model(files).is_some() {
        return None;
    }
    let files = files.without_prefix(PREFIXES);
    let has = |piece: &str| files.keys().any(|key| key.contains(piece));
    // What tells LongCat-Video from its relatives: a SwiGLU, and modulation by a layer per block.
    let layouts = [
        (TransformerLayout::Official, ".adaLN_modulation.1."),
        (TransformerLayout::FastVideo, ".adaln_linear_1."),
        (TransformerLayout::Kijai, ".modulation.1."),
    ];
    let (layout, _) = layouts.into_iter().find(|(_, piece)| has(piece))?;
    (has(".ffn.w1.") && has(".ffn.w3.")).then_some(layout)
}

/// The weights of a transformer in any layout under their official names, parts of fused layers put
/// together.
///
/// # Errors
/// [`WeightsError::OtherModel`] for weights of something else, [`WeightsError::BadIndex`] when parts of
/// a fused layer are missing.
pub fn official_weights(files: &WeightFiles) -> Result<WeightFiles, WeightsError> {
    if let Some(found) = other_model(files) {
        return Err(WeightsError::OtherModel {
            path: files.path().to_path_buf(),
            found: found.into(),
            needed: MODEL,
        });
    }
    let layout = transformer_layout(files);
    let files = files.without_prefix(PREFIXES);
    match layout {
        Some(TransformerLayout::Kijai) => files.renamed(&NameMap::of_layers(KIJAI_LAYERS)),
        Some(TransformerLayout::FastVideo) => from_fastvideo(&files),
        // What is not known is loaded as it is: the report then lists every key that does not fit.
        Some(TransformerLayout::Official) | None => Ok(files),
    }
}

/// Official weights under Kijai's names: for every key, the keys there and the rows of each, in order.
/// A key that the table does not have keeps its name.
pub fn kijai_names(official: &WeightFiles) -> Vec<(String, Vec<String>)> {
    let mut layers: BTreeMap<&str, BTreeMap<usize, &str>> = BTreeMap::new();
    for (theirs, ours) in KIJAI_LAYERS {
        let (layer, part) = ours.split_once('#').unwrap_or((ours, "0"));
        let parts = layers.entry(layer).or_default();
        parts.insert(part.parse().unwrap_or(0), theirs);
    }
    let named = |key: &str| -> Option<Vec<String>> {
        let (layer, tensor) = key.rsplit_once('.')?;
        let number = layer
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split('.').next());
        let pattern = match number {
            Some(number) => layer.replacen(number, "{i}", 1),
            None => layer.to_string(),
        };
        let parts = layers.get(pattern.as_str())?.values();
        Some(
            parts
                .map(|theirs| format!("{}.{tensor}", theirs.replace("{i}", number.unwrap_or(""))))
                .collect(),
        )
    };
    official
        .keys()
        .map(|key| (key.to_string(), named(key).unwrap_or(vec![key.to_string()])))
        .collect()
}

impl DitConfig {
    /// The config of weights: `config.json` of a directory, else what [`Self::of_weights`] tells.
    ///
    /// # Errors
    /// [`DitError`] names file and key.
    pub fn beside(path: &Path, official: &WeightFiles) -> Result<Self, DitError> {
        let file = path.join("config.json");
        match file.is_file() {
            true => Ok(Self::read(&file)?),
            false => Self::of_weights(official),
        }
    }

    /// The config that goes with weights under their official names: the one that the file holds, if it
    /// holds any, else what shapes tell. What they do not tell is as in the release: padded text is
    /// zeroed, block-sparse attention keeps one of sixteen blocks of 4×4×4 tokens, and is off.
    ///
    /// # Errors
    /// [`DitError::Weights`] when a decisive tensor is missing or misshaped, [`DitError::Config`] when
    /// the sizes do not fit each other.
    pub fn of_weights(official: &WeightFiles) -> Result<Self, DitError> {
        let path = official.path();
        if let Some(text) = official.metadata().get(CONFIG) {
            let keys = serde_json::from_str(text).map_err(|cause| ConfigError::Json {
                path: path.to_path_buf(),
                cause,
            })?;
            return Ok(Self::from_json(JsonConfig::new(path, keys))?);
        }
        let [hidden_size, in_channels, t, h, w] =
            official.shape_of("x_embedder.proj.weight", MODEL)?;
        let [head_dim] = official.shape_of("blocks.0.attn.q_norm.weight", MODEL)?;
        let [ffn, _] = official.shape_of("blocks.0.ffn.w1.weight", MODEL)?;
        let [adaln_tembed_dim, _] = official.shape_of("t_embedder.mlp.2.weight", MODEL)?;
        let [_, frequency_embedding_size] = official.shape_of("t_embedder.mlp.0.weight", MODEL)?;
        let [_, caption_channels] = official.shape_of("y_embedder.y_proj.0.weight", MODEL)?;
        let [out, _] = official.shape_of("final_layer.linear.weight", MODEL)?;
        let config = Self {
            in_channels,
            out_channels: out / (t * h * w).max(1),
            hidden_size,
            depth: depth(official),
            num_heads: hidden_size.checked_div(head_dim).unwrap_or(0),
            caption_channels,
            mlp_ratio: 4,
            adaln_tembed_dim,
            frequency_embedding_size,
            patch_size: [t, h, w],
            enable_bsa: false,
            bsa_params: Some(BsaParams {
                sparsity: Some(0.9375),
                cdf_threshold: None,
                chunk_3d_shape_q: [4; 3],
                chunk_3d_shape_k: [4; 3],
                empty_selection: EmptySelection::default(),
            }),
            text_tokens_zero_pad: true,
        };
        // Of the ratios that make this width, most often one, the usual one comes first.
        let ratio = [4].into_iter().chain(1..=16).find(|ratio| {
            let mlp_ratio = *ratio;
            Self {
                mlp_ratio,
                ..config.clone()
            }
            .ffn_dim()
                == ffn
        });
        let mlp_ratio = ratio.unwrap_or(config.mlp_ratio);
        let json = serde_json::to_value(Self {
            mlp_ratio,
            ..config
        });
        let keys = json.ok().and_then(|json| json.as_object().cloned());
        // As a config that was read, so that impossible sizes are named.
        Ok(Self::from_json(JsonConfig::new(
            path,
            keys.unwrap_or_default(),
        ))?)
    }

    /// What a safetensors file keeps of the config, so that [`Self::of_weights`] finds it there.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let json = serde_json::to_string(self).unwrap_or_default();
        BTreeMap::from([(CONFIG.to_string(), json)])
    }
}

/// How many different numbers of blocks there are: a missing block is then missed when weights load, and
/// a large number in a damaged name asks for nothing.
fn depth(official: &WeightFiles) -> usize {
    let numbers = official.keys().filter_map(|key| {
        let number = key.strip_prefix("blocks.")?.split('.').next()?;
        number.parse::<usize>().ok()
    });
    numbers.collect::<BTreeSet<_>>().len()
}
