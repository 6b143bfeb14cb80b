//! A checkpoint: where its parts lie, and loading them.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use longcat_dit::{DitConfig, LongCatTransformer, official_weights};
use longcat_kernels::KernelBackend;
use longcat_text::{TextEncoder, Umt5Config, carries_tokenizer};
use longcat_vae::{WanVae, WanVaeConfig};
use longcat_weights::{LoadAs, WeightFiles};

use crate::defaults::VideoDefaults;
use crate::parts::Found;
use crate::scheduler::FlowMatchScheduler;
use crate::{CheckpointParts, Component, VideoError};

/// A checkpoint: a directory in the official layout, in FastVideo's converted one (`transformer/`) or of
/// single files, or parts from several places.
///
/// Opening checks that the parts are there and reads the [`VideoDefaults`]; every part is read when it
/// is loaded.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    root: PathBuf,
    transformer: PathBuf,
    text_encoder: PathBuf,
    vae: PathBuf,
    tokenizer: PathBuf,
    /// `None` where there is no config: the released one is taken.
    scheduler: Option<PathBuf>,
    defaults: VideoDefaults,
}

impl Checkpoint {
    /// Opens a checkpoint: the path of a directory, or [`CheckpointParts`].
    ///
    /// # Errors
    /// [`VideoError::MissingComponent`] names the part that is not there, [`VideoError::Contents`] parts
    /// of which there are several, [`VideoError::Invalid`] an argument whose file is another part,
    /// [`VideoError::Weights`] a file that cannot be read, [`VideoError::Config`] what is wrong in a
    /// `longcat.json`.
    pub fn open(parts: impl Into<CheckpointParts>) -> Result<Self, VideoError> {
        let parts = parts.into();
        check_parts(&parts)?;
        let Some(root) = parts.model.clone() else {
            return Self::of_files(parts);
        };
        let official = [
            ("dit", root.join("dit")),
            ("transformer", root.join("transformer")),
        ];
        let transformer = official.into_iter().find(|(_, folder)| folder.is_dir());
        match transformer {
            Some((_, transformer)) => Self::of_directory(root, transformer, parts),
            // What `longcat lora merge` writes: the transformer's files beside the other parts.
            None if root.join("config.json").is_file() && root.join("scheduler").is_dir() => {
                Self::of_directory(root.clone(), root, parts)
            }
            None => Self::of_folder(root, parts),
        }
    }

    /// A directory in the official layout or FastVideo's, but for the parts that are named.
    fn of_directory(
        root: PathBuf,
        transformer: PathBuf,
        parts: CheckpointParts,
    ) -> Result<Self, VideoError> {
        let folder = |given: Option<PathBuf>, name: &str| match given {
            Some(path) => Ok(path),
            None if root.join(name).is_dir() => Ok(root.join(name)),
            None => Err(missing(&root, &format!("{name}/"))),
        };
        let tokenizer = folder(parts.tokenizer, "tokenizer")?;
        let text_encoder = folder(parts.text_encoder, "text_encoder")?;
        let vae = folder(parts.vae, "vae")?;
        let scheduler = folder(None, "scheduler")?;
        let transformer = parts.transformer.unwrap_or(transformer);
        Ok(Self {
            defaults: defaults(&root, &transformer)?,
            transformer,
            text_encoder,
            vae,
            tokenizer,
            scheduler: Some(scheduler.join("scheduler_config.json")),
            root,
        })
    }

    /// A folder of single files, told by their content, but for the parts that are named.
    fn of_folder(root: PathBuf, parts: CheckpointParts) -> Result<Self, VideoError> {
        let mut found = Found::search(&root)?;
        let encoder = parts.text_encoder.as_ref();
        if let Some(encoder) = encoder.or(found.text_encoder.first())
            && found.tokenizer.is_empty()
            && has_tokenizer(encoder)
        {
            found.tokenizer.push(encoder.clone());
        }
        let unreadable = &found.unreadable;
        let one = |given: Option<PathBuf>, found: Vec<PathBuf>, name: &str, flag: &str| {
            let mut found = found;
            match (given, found.len()) {
                (Some(path), _) => Ok(path),
                (None, 1) => Ok(found.remove(0)),
                (None, 0) if unreadable.is_empty() => Err(missing(&root, name)),
                (None, 0) => Err(VideoError::Contents {
                    path: root.clone(),
                    reason: format!("no {name} here that can be read: {}", unreadable.join("; ")),
                }),
                (None, _) => {
                    let files: Vec<String> = found
                        .iter()
                        .map(|file| file.display().to_string())
                        .collect();
                    Err(VideoError::Contents {
                        path: root.clone(),
                        reason: format!(
                            "it holds several that could be {name}: {}; say which with {flag}",
                            files.join(", ")
                        ),
                    })
                }
            }
        };
        let tokenizer = one(
            parts.tokenizer,
            found.tokenizer,
            "tokenizer/",
            "--tokenizer",
        )?;
        let text_encoder = one(
            parts.text_encoder,
            found.text_encoder,
            "text_encoder/",
            "--text-encoder",
        )?;
        let vae = one(parts.vae, found.vae, "vae/", "--vae")?;
        let transformer = one(parts.transformer, found.transformer, "dit/", "--dit")?;
        let scheduler = root.join("scheduler/scheduler_config.json");
        Ok(Self {
            defaults: defaults(&root, &transformer)?,
            transformer,
            text_encoder,
            vae,
            tokenizer,
            scheduler: scheduler.is_file().then_some(scheduler),
            root,
        })
    }

    /// Parts that are all named.
    fn of_files(parts: CheckpointParts) -> Result<Self, VideoError> {
        let named = |path: Option<PathBuf>, flag: &'static str| {
            path.ok_or_else(|| {
                VideoError::invalid(
                    flag,
                    "missing: without --model all of --dit, --text-encoder, --vae and --tokenizer are \
                     needed",
                )
            })
        };
        let transformer = named(parts.transformer, "--dit")?;
        let text_encoder = named(parts.text_encoder, "--text-encoder")?;
        let carried = || has_tokenizer(&text_encoder).then(|| text_encoder.clone());
        let tokenizer = named(parts.tokenizer.or_else(carried), "--tokenizer")?;
        let root = transformer.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Self {
            defaults: defaults(&root, &transformer)?,
            transformer,
            text_encoder,
            vae: named(parts.vae, "--vae")?,
            tokenizer,
            scheduler: None,
            root,
        })
    }

    /// The directory; that of the transformer where every part is named by itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Size, length and rate of the videos it makes.
    pub fn defaults(&self) -> &VideoDefaults {
        &self.defaults
    }

    /// The folder or file of the transformer.
    pub fn transformer_dir(&self) -> &Path {
        &self.transformer
    }

    /// The folder or file of the text encoder.
    pub fn text_encoder_path(&self) -> &Path {
        &self.text_encoder
    }

    /// The folder or file of the VAE.
    pub fn vae_path(&self) -> &Path {
        &self.vae
    }

    /// The folder or file of the tokenizer.
    pub fn tokenizer_path(&self) -> &Path {
        &self.tokenizer
    }

    /// An adapter that ships with the checkpoint, by its name without `.safetensors`.
    ///
    /// # Errors
    /// [`VideoError::MissingComponent`].
    pub fn bundled_lora(&self, name: &str) -> Result<PathBuf, VideoError> {
        let file = format!("lora/{name}.safetensors");
        let path = self.root.join(&file);
        if path.is_file() {
            return Ok(path);
        }
        Err(VideoError::MissingComponent {
            path: self.root.clone(),
            component: file,
        })
    }

    /// The transformer's config.
    ///
    /// # Errors
    /// [`VideoError::Config`]; [`VideoError::Weights`] where shapes have to tell it.
    pub fn transformer_config(&self) -> Result<DitConfig, VideoError> {
        transformer_config(&self.transformer)
    }

    /// The transformer's weights under their official names, memory-mapped.
    ///
    /// # Errors
    /// [`VideoError::Weights`].
    pub fn transformer_weights(&self) -> Result<WeightFiles, VideoError> {
        Ok(official_weights(&WeightFiles::open(&self.transformer)?)?)
    }

    /// Loads the transformer as [`LongCatTransformer::load`] does.
    ///
    /// # Errors
    /// [`VideoError::Dit`] and [`VideoError::Weights`] name file and key.
    pub fn load_transformer<B: KernelBackend>(
        &self,
        load_as: impl Into<LoadAs>,
        device: &B::Device,
    ) -> Result<LongCatTransformer<B>, VideoError> {
        let config = self.transformer_config()?;
        let files = self.transformer_weights()?;
        let (model, _) = LongCatTransformer::load_with_config(&config, &files, load_as, device)?;
        Ok(model)
    }

    /// The text encoder's weights under their official names, memory-mapped, if they are there.
    pub fn text_weights(&self) -> Option<WeightFiles> {
        let files = WeightFiles::open(&self.text_encoder).ok()?;
        longcat_text::official_weights(&files).ok()
    }

    /// The text encoder's config, if it can be read; loading it says why if it cannot.
    pub fn text_config(&self) -> Option<Umt5Config> {
        let file = self.text_encoder.join("config.json");
        match file.is_file() {
            true => Umt5Config::read(&file).ok(),
            false => Umt5Config::of_weights(&self.text_weights()?).ok(),
        }
    }

    /// Loads tokenizer and text encoder.
    ///
    /// # Errors
    /// [`VideoError::Text`].
    pub fn load_text_encoder<B: KernelBackend>(
        &self,
        load_as: impl Into<LoadAs>,
        device: &B::Device,
    ) -> Result<TextEncoder<B>, VideoError> {
        Ok(TextEncoder::load_parts(
            &self.tokenizer,
            &self.text_encoder,
            load_as,
            device,
        )?)
    }

    /// The VAE's config.
    ///
    /// # Errors
    /// [`VideoError::Config`]; [`VideoError::Vae`] where shapes have to tell it.
    pub fn vae_config(&self) -> Result<WanVaeConfig, VideoError> {
        let file = self.vae.join("config.json");
        if file.is_file() {
            return Ok(WanVaeConfig::read(&file)?);
        }
        let files = longcat_vae::official_weights(&WeightFiles::open(&self.vae)?)?;
        Ok(WanVaeConfig::of_weights(&files)?)
    }

    /// Loads the VAE.
    ///
    /// # Errors
    /// [`VideoError::Vae`].
    pub fn load_vae<B: KernelBackend>(
        &self,
        dtype: DType,
        device: &B::Device,
    ) -> Result<WanVae<B>, VideoError> {
        Ok(WanVae::load(&self.vae, dtype, device)?)
    }

    /// Reads the scheduler's config; the released one where there is none.
    ///
    /// # Errors
    /// [`VideoError::Config`].
    pub fn scheduler(&self) -> Result<FlowMatchScheduler, VideoError> {
        match &self.scheduler {
            Some(path) => Ok(FlowMatchScheduler::read(path)?),
            None => Ok(FlowMatchScheduler::RELEASED),
        }
    }

    /// What tells this checkpoint from others: its directory where it has all parts, else all places.
    pub(crate) fn identity(&self) -> String {
        let parts = [
            &self.transformer,
            &self.text_encoder,
            &self.vae,
            &self.tokenizer,
        ];
        let folders = ["dit", "transformer", "text_encoder", "vae", "tokenizer"];
        let official = |path: &&&PathBuf| folders.iter().any(|f| **path == &self.root.join(f));
        match parts.iter().filter(official).count() == parts.len() {
            true => format!("{:?}", self.root),
            false => format!("{parts:?}"),
        }
    }
}

fn transformer_config(path: &Path) -> Result<DitConfig, VideoError> {
    let file = path.join("config.json");
    if file.is_file() {
        return Ok(DitConfig::read(&file)?);
    }
    let files = official_weights(&WeightFiles::open(path)?)?;
    Ok(DitConfig::of_weights(&files)?)
}

/// What a checkpoint makes. Whoever needs the transformer's config reads it again, and hears then what is
/// wrong with it.
fn defaults(root: &Path, transformer: &Path) -> Result<VideoDefaults, VideoError> {
    let config = transformer_config(transformer).ok();
    Ok(VideoDefaults::of_checkpoint(root, config.as_ref())?)
}

/// Whether a text encoder is a file that carries its tokenizer.
fn has_tokenizer(encoder: &Path) -> bool {
    encoder.is_file() && WeightFiles::open(encoder).is_ok_and(|files| carries_tokenizer(&files))
}

fn missing(root: &Path, component: &str) -> VideoError {
    VideoError::MissingComponent {
        path: root.to_path_buf(),
        component: component.to_string(),
    }
}

/// Whether files that are named as one part are not another.
fn check_parts(parts: &CheckpointParts) -> Result<(), VideoError> {
    for (flag, path) in [
        ("--dit", &parts.transformer),
        ("--text-encoder", &parts.text_encoder),
        ("--vae", &parts.vae),
    ] {
        let Some(path) = path else { continue };
        let found = Component::of(&WeightFiles::open(path)?);
        if let Some(found) = found.filter(|found| found.flag() != flag) {
            let reason = format!(
                "{} holds {found}, which {} takes",
                path.display(),
                found.flag()
            );
            return Err(VideoError::invalid(flag, reason));
        }
    }
    let tokenizer = parts.tokenizer.as_ref();
    match tokenizer.filter(|path| !path.exists()) {
        Some(path) => {
            let cause = std::io::ErrorKind::NotFound.into();
            Err(VideoError::io(path, cause))
        }
        None => Ok(()),
    }
}
