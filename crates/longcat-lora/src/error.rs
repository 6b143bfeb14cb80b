//! The error of this crate.

use std::path::PathBuf;

use longcat_weights::{ConfigError, WeightsError};

use crate::Format;

/// What can be wrong with an adapter, or with what is asked of the adapters on a model.
///
/// [`Self::code`] gives a short stable name for programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// The file itself cannot be read or written.
    #[error(transparent)]
    File(#[from] WeightsError),
    /// No key belongs to an adapter.
    #[error(
        "{path}: none of its {keys} tensors belongs to a LoRA adapter; is it a whole checkpoint?"
    )]
    NoLoraKeys {
        /// The file.
        path: PathBuf,
        /// How many tensors it has.
        keys: usize,
    },
    /// A kind of adapter that is not plain LoRA. Applied without its extra tensors it would give
    /// wrong results, so it is refused.
    #[error(
        "{path}: {key} belongs to {kind}, which is not supported; export the adapter as plain LoRA"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The first such key, or the setting in the configuration file.
        key: String,
        /// Which kind.
        kind: UnsupportedKind,
    },
    /// Keys that belong to no recognised part of an adapter.
    #[error("{path}: {} tensors of this {format} file are not recognised: {}", keys.len(), listed(keys))]
    UnusedKeys {
        /// The file.
        path: PathBuf,
        /// The format of the other keys.
        format: Format,
        /// The keys.
        keys: Vec<String>,
    },
    /// The adapter addresses layers that the model does not have.
    #[error(
        "{path}: the model has no layer named {}; the adapter was made for another model",
        listed(targets)
    )]
    UnknownModule {
        /// The file.
        path: PathBuf,
        /// The layers, by canonical name where there is one.
        targets: Vec<String>,
    },
    /// A flattened name that can stand for several layers.
    #[error("{path}: {key} can mean any of {}", listed(candidates))]
    AmbiguousName {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The layers.
        candidates: Vec<String>,
    },
    /// A layer is given twice, whole and by parts or under two spellings.
    #[error("{path}: {target} is given more than once: {}", listed(keys))]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
        /// The keys that collide.
        keys: Vec<String>,
    },
    /// Shapes that do not fit each other or the layer.
    #[error("{path}: {target}: {key} has shape {found:?}, {expected}")]
    ShapeMismatch {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
        /// The key.
        key: String,
        /// Its shape.
        found: Vec<usize>,
        /// What it should be and why.
        expected: String,
    },
    /// The input side has no output side.
    #[error("{path}: {target} has {present} but no {missing} (lora_up); the file is incomplete")]
    MissingUp {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
        /// The key that is there.
        present: String,
        /// The part that is not.
        missing: String,
    },
    /// The output side has no input side.
    #[error("{path}: {target} has {present} but no lora_down; the file is incomplete")]
    MissingDown {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
        /// The key that is there.
        present: String,
    },
    /// Official files must give the scale of every layer.
    #[error("{path}: {target} has no alpha_scale, so its scale is unknown; add the scalar {key}")]
    MissingAlphaScale {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
        /// The absent key.
        key: String,
    },
    /// PEFT keeps the scale in a file of its own.
    #[error(
        "{path}: a PEFT adapter ({key}), whose scale is in adapter_config.json; {config} does not exist"
    )]
    MissingConfig {
        /// The adapter file.
        path: PathBuf,
        /// The absent file.
        config: PathBuf,
        /// A key that shows that the file is PEFT's: the most telling one.
        key: String,
    },
    /// A folder with several adapters.
    #[error(
        "{path}: several adapters are here; name the one to use: {}",
        listed(files)
    )]
    SeveralFiles {
        /// The folder.
        path: PathBuf,
        /// The names of the files.
        files: Vec<String>,
    },
    /// `adapter_config.json`, or the same settings in the header, are not valid or ask for what
    /// plain LoRA cannot do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The settings in the header of the file cannot be parsed.
    #[error("{path}: {key} in the header is not a JSON object: {cause}")]
    InvalidHeader {
        /// The adapter file.
        path: PathBuf,
        /// The key in the header.
        key: &'static str,
        /// The cause.
        cause: serde_json::Error,
    },
    /// Two scales for one layer.
    #[error(
        "{path}: {target} has an alpha of its own beside the one in the configuration; remove one of them"
    )]
    AmbiguousScale {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
    },
    /// NaN or an infinity.
    #[error("{path}: {target}: {key} holds NaN or an infinity (element {index})")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
        /// The key.
        key: String,
        /// The first such element, row-major.
        index: usize,
    },
    /// A stored type that cannot be a factor.
    #[error(
        "{path}: {target}: {key} is stored as {dtype}; factors must be F64, F32, F16, BF16 or F8"
    )]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The layer.
        target: String,
        /// The key.
        key: String,
        /// The stored type.
        dtype: String,
    },
    /// A format that cannot hold the adapter without changing its numbers.
    #[error("{target} cannot be written as {format} without changing its numbers: {reason}")]
    NotExpressible {
        /// The format.
        format: Format,
        /// The layer.
        target: String,
        /// Why.
        reason: String,
    },
    /// A place at which an adapter shall act and has no layer.
    #[error(
        "{path}: {place} is none of its layers, which are {}; groups of layers are {}",
        listed(layers), groups.join(", ")
    )]
    Nowhere {
        /// The file.
        path: PathBuf,
        /// The place, as written.
        place: String,
        /// Names of groups.
        groups: Vec<String>,
        /// The adapter's layers, with `{i}` for numbers.
        layers: Vec<String>,
    },
    /// The name is in use.
    #[error("an adapter named {name:?} is already loaded; unload it or choose another name")]
    AdapterExists {
        /// The name of the adapter.
        name: String,
    },
    /// No adapter on the model has this name.
    #[error("no adapter named {name:?} is loaded; loaded: [{}]", loaded.join(", "))]
    UnknownAdapter {
        /// The name of the adapter.
        name: String,
        /// Those that are.
        loaded: Vec<String>,
    },
    /// The adapter is part of the base weights and cannot change until they are restored.
    #[error("the adapter {name:?} is merged into the weights; unmerge first")]
    Merged {
        /// The name of the adapter.
        name: String,
    },
    /// The weight that an adapter would be merged into is packed.
    #[error(
        "{target} is packed as {kind}: a merged weight would have to be packed again, with an error of \
         its own; leave adapters beside the weights (without --merge), let it be packed again \
         (--requantize), or keep the weights as floats (--precision dense)"
    )]
    PackedBase {
        /// The layer.
        target: String,
        /// How it is packed.
        kind: String,
    },
    /// A merged weight cannot be packed as it was before.
    #[error(
        "{target} is packed as {kind}, and merged weights are packed as fp8 (e4m3), int8, Q8_0, Q4_0 and Q4_K \
         only; leave adapters beside the weights, or merge into floats"
    )]
    NotRequantized {
        /// The layer.
        target: String,
        /// How it is packed.
        kind: String,
    },
    /// A setting that is not usable.
    #[error("{what}")]
    InvalidSetting {
        /// What and why.
        what: String,
    },
    /// The original weight of a merged layer is not where it should be.
    #[error("the original weight of {target} cannot be restored: {reason}")]
    NoOriginal {
        /// The layer.
        target: String,
        /// Why.
        reason: String,
    },
    /// A merged weight is larger than its type holds.
    #[error(
        "{target}: with the adapters some values are larger than {dtype} holds; use a lower strength"
    )]
    Overflow {
        /// The parameter.
        target: String,
        /// The stored type.
        dtype: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// An output that already exists is never overwritten.
    #[error("{path} already exists; choose a new directory")]
    OutputExists {
        /// The path.
        path: PathBuf,
    },
}

/// Kinds of adapter that are recognised and refused, whole or in the form in which the file holds
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedKind {
    /// Weight-decomposed LoRA that is not two factors and magnitudes.
    Dora,
    /// Hadamard product of two low-rank products (LyCORIS), incomplete or with a Tucker core.
    Loha,
    /// Kronecker product (LyCORIS), incomplete or with a Tucker core.
    Lokr,
    /// Low-rank changes of weight and activations (LyCORIS).
    Glora,
    /// Orthogonal finetuning, BOFT among it.
    Oft,
    /// Learnt factors on activations.
    Ia3,
    /// A convolution with a Tucker core (LoCon).
    Tucker,
    /// LyCORIS' patches of norms.
    LycorisNorm,
    /// PEFT's adaptive ranks.
    AdaLora,
    /// Vectors between random matrices.
    Vera,
}

impl UnsupportedKind {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Dora => (
                "unsupported_dora",
                "a DoRA adapter that is not lora_down, lora_up and magnitudes of a layer",
            ),
            Self::Loha => (
                "unsupported_loha",
                "a LoHa adapter that is not hada_w1_a, hada_w1_b, hada_w2_a and hada_w2_b of a layer",
            ),
            Self::Lokr => (
                "unsupported_lokr",
                "a LoKr adapter that is not lokr_w1 and lokr_w2 of a layer, or their factors _a and _b",
            ),
            Self::Glora => ("unsupported_glora", "a GLoRA adapter"),
            Self::Oft => ("unsupported_oft", "an OFT or BOFT adapter"),
            Self::Ia3 => ("unsupported_ia3", "an IA3 adapter"),
            Self::Tucker => ("unsupported_tucker", "a convolution in Tucker form"),
            Self::LycorisNorm => ("unsupported_norm", "LyCORIS' training of norms"),
            Self::AdaLora => ("unsupported_adalora", "an AdaLoRA adapter"),
            Self::Vera => ("unsupported_vera", "a VeRA adapter"),
        }
    }
}

impl std::fmt::Display for UnsupportedKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.names().1)
    }
}

impl LoraError {
    /// A short stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File(WeightsError::NotSafetensors { .. }) => "not_safetensors",
            Self::File(WeightsError::Corrupt { .. }) => "corrupt_file",
            Self::File(WeightsError::NotFinite { .. }) | Self::NotFinite { .. } => "not_finite",
            Self::File(WeightsError::WrongDtype { .. }) | Self::WrongDtype { .. } => "wrong_dtype",
            Self::File(_) => "file",
            Self::NoLoraKeys { .. } => "no_lora_keys",
            Self::Unsupported { kind, .. } => kind.names().0,
            Self::SeveralFiles { .. } => "several_files",
            Self::Overflow { .. } => "overflow",
            Self::UnusedKeys { .. } => "unused_keys",
            Self::UnknownModule { .. } => "unknown_module",
            Self::AmbiguousName { .. } => "ambiguous_name",
            Self::Duplicate { .. } => "duplicate",
            Self::ShapeMismatch { .. } => "shape_mismatch",
            Self::MissingUp { .. } => "missing_up",
            Self::MissingDown { .. } => "missing_down",
            Self::MissingAlphaScale { .. } => "missing_alpha_scale",
            Self::MissingConfig { .. } => "missing_config",
            Self::Config(ConfigError::Io { .. }) => "file",
            Self::Config(_) | Self::InvalidHeader { .. } | Self::AmbiguousScale { .. } => {
                "invalid_config"
            }
            Self::NotExpressible { .. } => "not_expressible",
            Self::Nowhere { .. } => "nowhere",
            Self::AdapterExists { .. } => "adapter_exists",
            Self::UnknownAdapter { .. } => "unknown_adapter",
            Self::Merged { .. } => "merged",
            Self::PackedBase { .. } => "packed_base",
            Self::NotRequantized { .. } => "not_requantized",
            Self::InvalidSetting { .. } => "invalid_setting",
            Self::NoOriginal { .. } => "no_original",
            Self::Cancelled => "cancelled",
            Self::OutputExists { .. } => "output_exists",
        }
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = names.len().saturating_sub(SHOWN);
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}
