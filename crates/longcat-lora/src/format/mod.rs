//! File formats: recognising keys, reading, writing.

mod config;
mod keys;
mod layout;
mod read;
mod scan;
mod write;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;

pub(crate) use scan::Source;
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
    /// kohya and musubi-tuner: `lora_unet_…` with dots as underscores, `alpha`.
    Kohya,
    /// FastVideo: `lora_A`, `lora_B`, `lora_alpha` without `.weight`. Read only.
    FastVideo,
    /// DiffSynth: layer names without prefix, `lora_A.default.weight`, scale 1. Read only.
    DiffSynth,
}

/// A format's rules from the module part of its keys to dotted names, applied in order, each to
/// all its matches.
const RULES: [(Format, &[(&str, &str)]); 7] = [
    (
        Format::Official,
        &[("^lora___lorahyphen___", ""), ("___lorahyphen___", ".")],
    ),
    (Format::Peft, &[(r"^base_model\.model\.", "")]),
    (Format::Diffusers, &[(r"^transformer\.", "")]),
    (Format::ComfyUi, &[(r"^diffusion_model\.", "")]),
    // Underscores stay: only the model's own names can tell which were dots.
    (Format::Kohya, &[("^lora_(?:unet|transformer)_", "")]),
    (Format::FastVideo, &[]),
    (Format::DiffSynth, &[]),
];

type CompiledRules = Vec<(Regex, &'static str)>;

static COMPILED: LazyLock<Vec<(Format, CompiledRules)>> = LazyLock::new(|| {
    let compile = |rules: &'static [(&str, &'static str)]| {
        rules
            .iter()
            .map(|(pattern, to)| match Regex::new(pattern) {
                Ok(regex) => (regex, *to),
                Err(error) => panic!("invalid pattern {pattern:?}: {error}"),
            })
            .collect()
    };
    RULES
        .iter()
        .map(|(f, rules)| (*f, compile(rules)))
        .collect()
});

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

    /// The ordered rules from the module part of a key to the dotted name (for kohya, to the
    /// flattened one), as `(pattern, replacement)`.
    pub fn name_rules(self) -> &'static [(&'static str, &'static str)] {
        RULES
            .iter()
            .find(|(format, _)| *format == self)
            .map_or(&[], |(_, rules)| rules)
    }

    /// The format that a key's module part belongs to. `bare` says that its factor is spelled
    /// without `.weight`.
    fn detect(module: &str, bare: bool) -> Self {
        let prefixed = COMPILED
            .iter()
            .find(|(_, rules)| rules.first().is_some_and(|(r, _)| r.is_match(module)));
        match prefixed {
            // Flattened names hold no dot: a dotted module of that name is another model's.
            Some((Self::Kohya, _)) if module.contains('.') => Self::DiffSynth,
            Some((format, _)) => *format,
            None if bare => Self::FastVideo,
            None => Self::DiffSynth,
        }
    }

    /// The name in the model's spelling, `None` where the key lacks this format's prefix.
    fn strip(self, module: &str) -> Option<String> {
        let (_, rules) = COMPILED.iter().find(|(format, _)| *format == self)?;
        if rules.first().is_some_and(|(r, _)| !r.is_match(module)) {
            return None;
        }
        Some(rules.iter().fold(module.to_string(), |name, (regex, to)| {
            regex.replace_all(&name, *to).into_owned()
        }))
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
