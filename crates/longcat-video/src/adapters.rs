//! LoRA adapters of a pipeline.
//!
//! Adapter files are read and checked against the transformer's config when they are named, long
//! before any weight is loaded; they are put on the transformer when it is.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use burn::tensor::backend::Backend;
use longcat_dit::{DitConfig, LongCatTransformer, lora_targets};
use longcat_kernels::KernelBackend;
use longcat_lora::{
    Adapter, CheckpointWeights, LoraError, LoraMerge, LoraOptions, LoraRegistry, check_fit,
};

use crate::VideoError;
use crate::pipeline::Pipeline;

/// Name of the adapter that replaces 50 guided steps by 16 plain ones.
pub const CFG_STEP_LORA: &str = "cfg_step_lora";
/// Name of the adapter that refines 480p to 720p.
pub const REFINEMENT_LORA: &str = "refinement_lora";

#[derive(Debug, Clone)]
struct Loaded {
    name: String,
    path: PathBuf,
    adapter: Adapter,
    strength: f64,
    enabled: bool,
}

/// The adapters of a pipeline, on the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Adapters {
    list: Vec<Loaded>,
    bsa: bool,
}

impl Adapters {
    pub(crate) fn new(config: &DitConfig) -> Self {
        Self {
            list: Vec::new(),
            bsa: config.enable_bsa,
        }
    }

    /// Puts all of them on a freshly loaded transformer.
    pub(crate) fn attach_all<B: Backend>(
        &self,
        model: &mut LongCatTransformer<B>,
        dtype: DType,
    ) -> Result<(), VideoError> {
        for loaded in &self.list {
            loaded.attach(model, dtype)?;
        }
        self.apply_choice(model)
    }

    fn apply_choice<B: Backend>(
        &self,
        model: &mut LongCatTransformer<B>,
    ) -> Result<(), VideoError> {
        let enabled = self.list.iter().filter(|l| l.enabled);
        let chosen: Vec<(&str, f64)> = enabled.map(|l| (l.name.as_str(), l.strength)).collect();
        model.use_adapters(&chosen)?;
        model.set_bsa(self.bsa)?;
        Ok(())
    }
}

impl Loaded {
    fn attach<B: Backend>(
        &self,
        model: &mut LongCatTransformer<B>,
        dtype: DType,
    ) -> Result<(), VideoError> {
        let options = LoraOptions {
            strength: self.strength,
            dtype: Some(dtype),
        };
        model.load_adapter(&self.name, &self.adapter, options)?;
        Ok(())
    }
}

/// An adapter of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraStatus {
    /// The nickname.
    pub name: String,
    /// The file or directory it was read from.
    pub path: PathBuf,
    /// Factor on the adapter's own scale.
    pub strength: f64,
    /// Whether it takes part.
    pub enabled: bool,
}

impl<B: KernelBackend> Pipeline<B> {
    /// Reads an adapter of any supported format under a nickname, switched off.
    ///
    /// Names and shapes are checked against the transformer's config; no base weight is read.
    ///
    /// # Errors
    /// [`VideoError::Lora`] names file, key and shapes; nothing changes then.
    pub fn load_lora(&mut self, name: &str, path: &Path) -> Result<(), VideoError> {
        if self.adapters.list.iter().any(|l| l.name == name) {
            return Err(LoraError::AdapterExists { name: name.into() }.into());
        }
        let adapter = Adapter::read(path, lora_targets())?;
        // Parameters are made when first read: this model has shapes and no memory.
        let shapes = LongCatTransformer::<B>::new(self.transformer_config(), self.device());
        check_fit(&shapes, &adapter)?;
        let loaded = Loaded {
            name: name.to_string(),
            path: path.to_path_buf(),
            adapter,
            strength: 1.0,
            enabled: false,
        };
        let dtype = self.options().dtype;
        for model in self.loaded_transformers() {
            loaded.attach(model, dtype)?;
            model.set_adapter_enabled(name, false)?;
        }
        self.adapters.list.push(loaded);
        Ok(())
    }

    /// Enables exactly these adapters with these strengths, without any reload.
    ///
    /// # Errors
    /// [`VideoError::Lora`] for a nickname that is not loaded or a strength that is not finite.
    pub fn use_loras(&mut self, chosen: &[(&str, f64)]) -> Result<(), VideoError> {
        let mut next = self.adapters.clone();
        for loaded in &mut next.list {
            loaded.enabled = false;
        }
        for (name, strength) in chosen {
            if !strength.is_finite() {
                return Err(VideoError::invalid(
                    "lora",
                    format!("the strength {strength} of {name} is not a finite number"),
                ));
            }
            match next.list.iter_mut().find(|l| l.name == *name) {
                Some(loaded) => {
                    loaded.enabled = true;
                    loaded.strength = *strength;
                }
                None => {
                    return Err(LoraError::UnknownAdapter {
                        name: name.to_string(),
                        loaded: self.adapters.list.iter().map(|l| l.name.clone()).collect(),
                    }
                    .into());
                }
            }
        }
        self.switch_to(next)
    }

    /// Switches block-sparse attention on or off.
    ///
    /// # Errors
    /// [`VideoError::Dit`] when the checkpoint has no parameters for it.
    pub fn set_bsa(&mut self, enabled: bool) -> Result<(), VideoError> {
        if enabled && self.transformer_config().bsa_params.is_none() {
            return Err(longcat_dit::DitError::NoBsaParams.into());
        }
        let next = Adapters {
            bsa: enabled,
            ..self.adapters.clone()
        };
        self.switch_to(next)
    }

    /// Merges the enabled adapters into the base weights, which makes them cost nothing per step.
    ///
    /// # Errors
    /// [`VideoError::Lora`]; loading the transformer can fail too.
    pub fn merge_loras(&mut self) -> Result<(), VideoError> {
        for model in self.transformers()? {
            model.merge_adapters()?;
        }
        Ok(())
    }

    /// Undoes [`Self::merge_loras`] bit for bit, by reading the weights from the checkpoint again.
    ///
    /// # Errors
    /// [`VideoError::Weights`] and [`VideoError::Lora`].
    pub fn unmerge_loras(&mut self) -> Result<(), VideoError> {
        let files = self.checkpoint().transformer_weights()?;
        for model in self.transformers()? {
            model.unmerge_adapters(&CheckpointWeights(&files))?;
        }
        Ok(())
    }

    /// Forgets an adapter.
    ///
    /// # Errors
    /// [`VideoError::Lora`] for a nickname that is not loaded.
    pub fn unload_lora(&mut self, name: &str) -> Result<(), VideoError> {
        let Some(index) = self.adapters.list.iter().position(|l| l.name == name) else {
            return Err(LoraError::UnknownAdapter {
                name: name.to_string(),
                loaded: self.adapters.list.iter().map(|l| l.name.clone()).collect(),
            }
            .into());
        };
        for model in self.loaded_transformers() {
            model.unload_adapter(name)?;
        }
        self.adapters.list.remove(index);
        Ok(())
    }

    /// The adapters, in the order in which they were loaded.
    pub fn loras(&self) -> Vec<LoraStatus> {
        let status = |l: &Loaded| LoraStatus {
            name: l.name.clone(),
            path: l.path.clone(),
            strength: l.strength,
            enabled: l.enabled,
        };
        self.adapters.list.iter().map(status).collect()
    }

    /// Runs `task` with the checkpoint's refinement adapter alone and block-sparse attention on;
    /// afterwards adapters and attention are as before, also when the task fails.
    ///
    /// # Errors
    /// Those of the task, and of loading the adapter.
    pub fn with_refinement<T>(
        &mut self,
        task: impl FnOnce(&mut Self) -> Result<T, VideoError>,
    ) -> Result<T, VideoError> {
        if !self.adapters.list.iter().any(|l| l.name == REFINEMENT_LORA) {
            let path = self.checkpoint().bundled_lora(REFINEMENT_LORA)?;
            self.load_lora(REFINEMENT_LORA, &path)?;
        }
        let before = self.adapters.clone();
        self.use_loras(&[(REFINEMENT_LORA, 1.0)])?;
        let result = self.set_bsa(true).and_then(|()| task(self));
        self.switch_to(before)?;
        result
    }

    fn switch_to(&mut self, next: Adapters) -> Result<(), VideoError> {
        for model in self.loaded_transformers() {
            next.apply_choice(model)?;
        }
        self.adapters = next;
        Ok(())
    }
}
