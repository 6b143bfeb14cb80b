//! The checkpoint directory.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use longcat_dit::{DitConfig, LongCatTransformer, from_fastvideo};
use longcat_kernels::KernelBackend;
use longcat_text::TextEncoder;
use longcat_vae::{WanVae, WanVaeConfig};
use longcat_weights::WeightFiles;

use crate::VideoError;
use crate::defaults::VideoDefaults;
use crate::scheduler::FlowMatchScheduler;

/// A checkpoint directory in the official layout, or in FastVideo's converted one (`transformer/`).
///
/// Opening checks that the parts are there and reads the [`VideoDefaults`]; every part is read when it
/// is loaded.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    root: PathBuf,
    transformer: PathBuf,
    fastvideo: bool,
    defaults: VideoDefaults,
}

impl Checkpoint {
    /// Opens a checkpoint directory.
    ///
    /// # Errors
    /// [`VideoError::MissingComponent`] names the folder that is not there, [`VideoError::Config`]
    /// what is wrong in a `longcat.json`.
    pub fn open(root: &Path) -> Result<Self, VideoError> {
        let missing = |component: &str| VideoError::MissingComponent {
            path: root.to_path_buf(),
            component: component.to_string(),
        };
        for part in ["tokenizer", "text_encoder", "vae", "scheduler"] {
            if !root.join(part).is_dir() {
                return Err(missing(&format!("{part}/")));
            }
        }
        let official = root.join("dit");
        let converted = root.join("transformer");
        let (transformer, fastvideo) = match (official.is_dir(), converted.is_dir()) {
            (true, _) => (official, false),
            (false, true) => (converted, true),
            (false, false) => return Err(missing("dit/")),
        };
        // Whoever needs the config reads it again, and hears then what is wrong with it.
        let config = DitConfig::read(&transformer.join("config.json")).ok();
        Ok(Self {
            root: root.to_path_buf(),
            transformer,
            fastvideo,
            defaults: VideoDefaults::of_checkpoint(root, config.as_ref())?,
        })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Size, length and rate of the videos it makes.
    pub fn defaults(&self) -> &VideoDefaults {
        &self.defaults
    }

    /// The folder of the transformer.
    pub fn transformer_dir(&self) -> &Path {
        &self.transformer
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
    /// [`VideoError::Config`].
    pub fn transformer_config(&self) -> Result<DitConfig, VideoError> {
        Ok(DitConfig::read(&self.transformer.join("config.json"))?)
    }

    /// The transformer's weights under their official names, memory-mapped.
    ///
    /// # Errors
    /// [`VideoError::Weights`].
    pub(crate) fn transformer_weights(&self) -> Result<WeightFiles, VideoError> {
        let files = WeightFiles::open(&self.transformer)?;
        Ok(if self.fastvideo {
            from_fastvideo(&files)?
        } else {
            files
        })
    }

    /// Loads the transformer, cast to `dtype` but for its fp32 islands.
    ///
    /// # Errors
    /// [`VideoError::Dit`] and [`VideoError::Weights`] name file and key.
    pub fn load_transformer<B: KernelBackend>(
        &self,
        dtype: Option<DType>,
        device: &B::Device,
    ) -> Result<LongCatTransformer<B>, VideoError> {
        let config = self.transformer_config()?;
        let files = self.transformer_weights()?;
        let (model, _) = LongCatTransformer::load_with_config(&config, &files, dtype, device)?;
        Ok(model)
    }

    /// Loads tokenizer and text encoder.
    ///
    /// # Errors
    /// [`VideoError::Text`].
    pub fn load_text_encoder<B: KernelBackend>(
        &self,
        dtype: DType,
        device: &B::Device,
    ) -> Result<TextEncoder<B>, VideoError> {
        Ok(TextEncoder::load(&self.root, dtype, device)?)
    }

    /// The VAE's config.
    ///
    /// # Errors
    /// [`VideoError::Config`].
    pub fn vae_config(&self) -> Result<WanVaeConfig, VideoError> {
        Ok(WanVaeConfig::read(&self.root.join("vae/config.json"))?)
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
        Ok(WanVae::load(&self.root.join("vae"), dtype, device)?)
    }

    /// Reads the scheduler's config.
    ///
    /// # Errors
    /// [`VideoError::Config`].
    pub fn scheduler(&self) -> Result<FlowMatchScheduler, VideoError> {
        let path = self.root.join("scheduler/scheduler_config.json");
        Ok(FlowMatchScheduler::read(&path)?)
    }
}
