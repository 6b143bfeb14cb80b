//! File formats: recognising keys, reading, writing.

mod config;
mod folder;
mod keys;
mod kinds;
mod layout;
mod patches;
mod prefix;
mod read;
mod scan;
mod values;
mod warnings;
mod write;

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

pub(crate) use scan::Source;
pub use warnings::adapter_warnings;
pub use write::WriteOptions;

/// The dialects of LoRA files. They differ in the spelling of layer names and factors, and in
/// where the scale is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// The official LongCat files: `lora___lorahyphen___…`, `lora_down`, `lora_up[.blocks.j]`,
    /// `alpha_scale`.
    Official,
    /// PEFT's `save_pretrained`: `base_model.model.…lora_A.weight` and `adapter_config.json`.
    Peft,
    /// diffusers: `transformer.…lora_A.weight`, scale in the header (or 1).
    Diffusers,
    /// ComfyUI and diffusion-pipe: `diffusion_model.…lora_A.weight`, optional `alpha`.
    ComfyUi,
    /// kohya, musubi-tuner, LyCORIS and VideoX-Fun: `lora_unet_…` or `lycoris_…` with dots as
    /// underscores, `alpha`.
    Kohya,
    /// FastVideo: `lora_A`, `lora_B`, `lora_alpha` without `.weight`.
    FastVideo,
    /// DiffSynth: layer names without prefix or with `pipe.dit.`, `lora_A.default.weight`, scale 1.
    DiffSynth,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 7] = [
        Self::Official,
        Self::Peft,
        Self::Diffusers,
        Self::ComfyUi,
        Self::Kohya,
        Self::FastVideo,
        Self::DiffSynth,
    ];

    /// The rules from the module part of a key to the dotted name (for kohya, to the flattened
    /// one), as `(pattern, replacement)`, applied until none matches.
    pub fn name_rules(self) -> Vec<(&'static str, &'static str)> {
        prefix::rules(self)
    }

    /// Name in command lines and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Official => "official",
            Self::Peft => "peft",
            Self::Diffusers => "diffusers",
            Self::ComfyUi => "comfyui",
            Self::Kohya => "kohya",
            Self::FastVideo => "fastvideo",
            Self::DiffSynth => "diffsynth",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of [`Format::as_str`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {name:?}; one of {}", Format::ALL.map(Format::as_str).join(", "))]
pub struct UnknownFormat {
    /// The name.
    pub name: String,
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.as_str() == text);
        found.ok_or_else(|| UnknownFormat {
            name: text.to_string(),
        })
    }
}
