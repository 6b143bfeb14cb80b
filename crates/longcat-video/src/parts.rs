//! Where the parts of a checkpoint lie, and which file is which.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use longcat_dit::{TransformerLayout, transformer_layout};
use longcat_text::{TextEncoderLayout, text_encoder_layout};
use longcat_vae::{VaeLayout, vae_layout};
use longcat_weights::WeightFiles;

use crate::VideoError;

/// A network of a checkpoint, and whose names its weights have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The diffusion transformer.
    Transformer(TransformerLayout),
    /// The UMT5 text encoder.
    TextEncoder(TextEncoderLayout),
    /// The Wan VAE.
    Vae(VaeLayout),
}

impl Component {
    /// Tells by the keys which network the weights are of; `None` for others.
    pub fn of(files: &WeightFiles) -> Option<Self> {
        let transformer = transformer_layout(files).map(Self::Transformer);
        let text_encoder = || text_encoder_layout(files).map(Self::TextEncoder);
        let vae = || vae_layout(files).map(Self::Vae);
        transformer.or_else(text_encoder).or_else(vae)
    }

    /// The argument of the command line that takes it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Transformer(_) => "--dit",
            Self::TextEncoder(_) => "--text-encoder",
            Self::Vae(_) => "--vae",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transformer(layout) => {
                write!(f, "the LongCat-Video transformer under {layout} names")
            }
            Self::TextEncoder(layout) => write!(f, "the UMT5 text encoder under {layout} names"),
            Self::Vae(layout) => write!(f, "the Wan 2.1 VAE under {layout} names"),
        }
    }
}

/// Where the parts of a checkpoint lie: a directory, files or folders for each part, or both.
///
/// ```
/// use longcat_video::CheckpointParts;
///
/// let directory = CheckpointParts::from("LongCat-Video");
/// let with_other_weights = CheckpointParts {
///     transformer: Some("LongCat_TI2V_comfy_bf16.safetensors".into()),
///     ..directory
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckpointParts {
    /// A checkpoint directory, or a folder of single files, that has every part which is not named
    /// itself.
    pub model: Option<PathBuf>,
    /// The transformer: a file of weights, or a folder with one or with shards, and perhaps a
    /// `config.json`.
    pub transformer: Option<PathBuf>,
    /// The UMT5 text encoder, likewise.
    pub text_encoder: Option<PathBuf>,
    /// The VAE, likewise.
    pub vae: Option<PathBuf>,
    /// `tokenizer.json` or `spiece.model`, a folder with one, or a text encoder's file that carries one.
    pub tokenizer: Option<PathBuf>,
}

impl CheckpointParts {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&Path> for CheckpointParts {
    fn from(model: &Path) -> Self {
        Self {
            model: Some(model.to_path_buf()),
            ..Self::default()
        }
    }
}

impl From<PathBuf> for CheckpointParts {
    fn from(model: PathBuf) -> Self {
        model.as_path().into()
    }
}

impl From<&PathBuf> for CheckpointParts {
    fn from(model: &PathBuf) -> Self {
        model.as_path().into()
    }
}

impl From<&str> for CheckpointParts {
    fn from(model: &str) -> Self {
        Path::new(model).into()
    }
}

impl From<&Self> for CheckpointParts {
    fn from(parts: &Self) -> Self {
        parts.clone()
    }
}

/// Weights and tokenizers in a folder of single files and in the folders in it.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) transformer: Vec<PathBuf>,
    pub(crate) text_encoder: Vec<PathBuf>,
    pub(crate) vae: Vec<PathBuf>,
    pub(crate) tokenizer: Vec<PathBuf>,
    /// Files that look like weights and cannot be read, with why.
    pub(crate) unreadable: Vec<String>,
}

impl Found {
    /// Searches a folder.
    ///
    /// # Errors
    /// [`VideoError::Io`] when it cannot be listed.
    pub(crate) fn search(root: &Path) -> Result<Self, VideoError> {
        let mut found = Self::default();
        let (files, folders) = list(root)?;
        found.add(root, &files);
        for folder in folders {
            // What cannot be listed has nothing for us.
            if let Ok((files, _)) = list(&folder) {
                found.add(&folder, &files);
            }
        }
        Ok(found)
    }

    fn add(&mut self, folder: &Path, files: &BTreeSet<PathBuf>) {
        let named = |end: &str| {
            let end = end.to_string();
            move |file: &&PathBuf| file.to_string_lossy().ends_with(&end)
        };
        let mut tokenizers = files.iter().filter(named("tokenizer.json"));
        let mut models = files.iter().filter(named("spiece.model"));
        self.tokenizer
            .extend(tokenizers.next().or(models.next()).cloned());
        let sharded = files.iter().any(|f| named(".safetensors.index.json")(&f));
        let weights: Vec<&Path> = match sharded {
            true => vec![folder],
            false => files
                .iter()
                .filter(|file| {
                    let endings = [".safetensors", ".gguf", ".pth", ".pt", ".bin"];
                    endings.iter().any(|end| named(end)(file))
                })
                .map(PathBuf::as_path)
                .collect(),
        };
        for path in weights {
            let list = match WeightFiles::open(path).map(|files| Component::of(&files)) {
                Ok(Some(Component::Transformer(_))) => &mut self.transformer,
                Ok(Some(Component::TextEncoder(_))) => &mut self.text_encoder,
                Ok(Some(Component::Vae(_))) => &mut self.vae,
                Ok(None) => continue,
                Err(error) => {
                    self.unreadable.push(error.to_string());
                    continue;
                }
            };
            // A folder's only file of weights stands for the folder, whose config then counts.
            let alone = path.parent() == Some(folder)
                && folder.join("config.json").is_file()
                && WeightFiles::open(folder).is_ok();
            list.push(if alone { folder } else { path }.to_path_buf());
        }
    }
}

/// Files and folders of a folder, sorted.
fn list(folder: &Path) -> Result<(BTreeSet<PathBuf>, BTreeSet<PathBuf>), VideoError> {
    let io = |error| VideoError::io(folder, error);
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(io)?;
    Ok(paths.into_iter().partition(|path| path.is_file()))
}
