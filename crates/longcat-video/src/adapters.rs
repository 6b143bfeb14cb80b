//! LoRA adapters of a pipeline.
//!
//! Adapter files are read and checked against the transformer's config when they are named, long
//! before any weight is loaded. Which of them are in use is a choice that is put on the transformer
//! when it is needed next, whatever was on it: every pipeline runs with what was chosen last.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use longcat_dit::{DitConfig, LongCatTransformer, lora_targets};
use longcat_kernels::{KernelBackend, Stage};
use longcat_lora::{
    Adapter, AdapterStatus, CheckpointWeights, LoraError, LoraMerge, LoraOptions, LoraRegistry,
    Matrix, Requantized, check_fit,
};

use crate::VideoError;
use crate::checkpoint::Checkpoint;
use crate::pipeline::Pipeline;
use crate::same_adapter::{is_of_file, same_adapter, share_layers};
use crate::{LoraScope, StepScope};

/// Name of the adapter that replaces 50 guided steps by 16 plain ones.
pub const CFG_STEP_LORA: &str = "cfg_step_lora";
/// Name of the adapter that refines 480p to 720p.
pub const REFINEMENT_LORA: &str = "refinement_lora";

#[derive(Debug)]
struct Loaded {
    name: String,
    path: PathBuf,
    /// Its layers within the scope.
    adapter: Adapter,
    scope: LoraScope,
    /// Names of the adapters before it that hold the same on a layer.
    twins: Vec<String>,
}

/// An adapter in use that acts in some steps only.
#[derive(Debug)]
pub(crate) struct TimedLora {
    pub name: String,
    path: PathBuf,
    pub steps: StepScope,
}

impl TimedLora {
    /// Whether it acts at all in a run of so many steps.
    ///
    /// # Errors
    /// [`VideoError::Invalid`].
    pub(crate) fn check(&self, total: usize) -> Result<(), VideoError> {
        let Self { path, steps, .. } = self;
        match (0..total).any(|step| steps.contains(step, total)) {
            true => Ok(()),
            false => Err(VideoError::invalid(
                "lora",
                format!(
                    "{} would act in none of the {total} steps: @{steps}",
                    path.display()
                ),
            )),
        }
    }
}

/// What the transformer runs with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// Names and strengths of the adapters in use.
    pub(crate) loras: Vec<(String, f64)>,
    /// Whether these are added to the weights, or lie beside them.
    pub(crate) merged: bool,
    /// Whether sums with packed weights are packed again.
    pub(crate) requantize: bool,
    /// Block-sparse attention.
    bsa: bool,
}

/// The adapters of a pipeline, on the host.
#[derive(Debug)]
pub(crate) struct Adapters {
    list: Vec<Loaded>,
    pub(crate) choice: Choice,
    /// What refining uses, if it was said.
    pub(crate) refining: Option<Vec<(String, f64)>>,
}

impl Adapters {
    pub(crate) fn new(config: &DitConfig) -> Self {
        Self {
            list: Vec::new(),
            choice: Choice {
                loras: Vec::new(),
                merged: false,
                requantize: false,
                bsa: config.enable_bsa,
            },
            refining: None,
        }
    }

    fn find(&self, name: &str) -> Result<&Loaded, VideoError> {
        let found = self.list.iter().find(|l| l.name == name);
        Ok(found.ok_or_else(|| LoraError::UnknownAdapter {
            name: name.to_string(),
            loaded: self.list.iter().map(|l| l.name.clone()).collect(),
        })?)
    }

    /// Checks that adapters can act together.
    fn check(&self, chosen: &[(&str, f64)]) -> Result<Vec<(String, f64)>, VideoError> {
        for (i, (name, strength)) in chosen.iter().enumerate() {
            let loaded = self.find(name)?;
            if !strength.is_finite() {
                return Err(VideoError::invalid(
                    "lora",
                    format!("the strength {strength} of {name} is not a finite number"),
                ));
            }
            for (other, _) in &chosen[..i] {
                let first = self.find(other)?;
                let twins =
                    loaded.twins.contains(&first.name) || first.twins.contains(&loaded.name);
                let at_once = match (&first.scope.steps, &loaded.scope.steps) {
                    (Some(steps), Some(others)) => steps.meets(others),
                    _ => true,
                };
                if (twins && at_once) || first.name == loaded.name {
                    return Err(VideoError::invalid(
                        "lora",
                        format!(
                            "{} holds the same adapter as {}: it would act twice; name it once, with \
                             the strength it shall have",
                            loaded.path.display(),
                            first.path.display()
                        ),
                    ));
                }
            }
        }
        let own = |(name, strength): &(&str, f64)| (name.to_string(), *strength);
        let chosen: Vec<_> = chosen.iter().map(own).collect();
        if self.choice.merged {
            self.check_mergeable(&chosen)?;
        }
        Ok(chosen)
    }

    /// Weights that hold an adapter hold it in every step.
    pub(crate) fn check_mergeable(&self, loras: &[(String, f64)]) -> Result<(), VideoError> {
        match self.timed_of(loras).first() {
            None => Ok(()),
            Some(TimedLora { path, steps, .. }) => Err(VideoError::invalid(
                "merge",
                format!(
                    "{} acts in some steps only (@{steps}) and cannot be merged into the weights; leave \
                     out --merge, or the steps",
                    path.display()
                ),
            )),
        }
    }

    /// The adapters in use that act in some steps only.
    pub(crate) fn timed(&self) -> Vec<TimedLora> {
        self.timed_of(&self.choice.loras)
    }

    /// Checks that adapters with steps of their own act in some of so many steps, in refining or before.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] names the adapter.
    pub(crate) fn check_steps(&self, total: usize, refining: bool) -> Result<(), VideoError> {
        let loras = match &self.refining {
            Some(loras) if refining => loras,
            _ if refining => return Ok(()),
            _ => &self.choice.loras,
        };
        let timed = self.timed_of(loras);
        timed.iter().try_for_each(|timed| timed.check(total))
    }

    fn timed_of(&self, loras: &[(String, f64)]) -> Vec<TimedLora> {
        let loaded = |(name, _): &(String, f64)| self.list.iter().find(|l| l.name == *name);
        let timed = loras.iter().filter_map(loaded).filter_map(|l| {
            Some(TimedLora {
                name: l.name.clone(),
                path: l.path.clone(),
                steps: l.scope.steps?,
            })
        });
        timed.collect()
    }

    /// Whether attention is block-sparse.
    pub(crate) fn sparse(&self) -> bool {
        self.choice.bsa
    }

    /// Bytes of the factors of the adapters in use beside the weights, in elements of `element` bytes;
    /// `refining` says of which stage.
    pub(crate) fn bytes(&self, refining: bool, element: u64) -> u64 {
        let loras = match &self.refining {
            Some(loras) if refining => loras,
            _ => &self.choice.loras,
        };
        let of = |matrix: &Matrix| (matrix.rows() * matrix.cols()) as u64;
        let loaded = loras.iter().filter_map(|(name, _)| self.find(name).ok());
        let blocks = loaded.flat_map(|l| l.adapter.targets().flat_map(|(_, blocks)| blocks));
        let factors: u64 = blocks.map(|block| of(&block.down) + of(&block.up)).sum();
        match self.choice.merged {
            true => 0,
            false => factors * element,
        }
    }

    /// What [`Self::put_on`] is to a device.
    pub(crate) fn stage(&self) -> Stage {
        match self.choice.merged {
            true => Stage::MergingAdapters,
            false => Stage::LoadingTransformer,
        }
    }

    /// Whether something else than what is chosen now is merged into a transformer.
    pub(crate) fn is_stale<B: KernelBackend>(&self, model: &LongCatTransformer<B>) -> bool {
        let on = model.adapters();
        let loras = &self.choice.loras;
        let enabled: Vec<_> = on.iter().filter(|status| status.enabled).collect();
        let chosen = |status: &&AdapterStatus| {
            let mut loras = loras.iter();
            loras.any(|(name, strength)| *name == status.name && *strength == status.strength)
        };
        let as_chosen = enabled.len() == loras.len() && enabled.iter().all(chosen);
        on.iter().any(|status| status.merged) && !(self.choice.merged && as_chosen)
    }

    /// Brings a transformer to what is chosen now. After an error it holds some of it. Says what packing
    /// merged matrices again changed, where some are packed.
    pub(crate) fn put_on<B: KernelBackend>(
        &self,
        model: &mut LongCatTransformer<B>,
        dtype: DType,
        checkpoint: &Checkpoint,
    ) -> Result<Option<Requantized>, VideoError> {
        let choice = &self.choice;
        model.set_bsa(choice.bsa)?;
        let on = model.adapters();
        if on.iter().any(|status| status.merged) {
            if !self.is_stale(model) {
                return Ok(None);
            }
            let files = checkpoint.transformer_weights()?;
            model.unmerge_adapters(&CheckpointWeights(&files))?;
        }
        for (name, strength) in &choice.loras {
            if on.iter().all(|status| status.name != *name) {
                let options = LoraOptions {
                    strength: *strength,
                    dtype: Some(dtype),
                };
                model.load_adapter(name, &self.find(name)?.adapter, options)?;
            }
        }
        let chosen = choice.loras.iter().map(|(n, s)| (n.as_str(), *s));
        model.use_adapters(&chosen.collect::<Vec<_>>())?;
        Ok(match choice.merged && !choice.loras.is_empty() {
            true if choice.requantize => {
                let off = model.merge_adapters_requantized()?;
                (off.matrices > 0).then_some(off)
            }
            true => {
                model.merge_adapters()?;
                None
            }
            false => None,
        })
    }
}

/// An adapter of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraStatus {
    /// The nickname.
    pub name: String,
    /// The file or directory it was read from.
    pub path: PathBuf,
    /// Where and when it acts; stages are those of [`Pipeline::use_loras`] and
    /// [`Pipeline::use_refine_loras`].
    pub scope: LoraScope,
    /// Nicknames of the adapters before it that are the same, or the same on the layers in common.
    pub same_as: Vec<String>,
    /// Factor on the adapter's own scale; 1 where it is not in use.
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
        self.load_scoped_lora(name, path, &LoraScope::default())
    }

    /// As [`Self::load_lora`], of an adapter that acts on some layers or in some steps only. Those of
    /// layers outside of the scope are not kept.
    ///
    /// In a run the adapters are switched where others begin to act; nothing is loaded for that. Cached keys
    /// and values of condition frames are computed again then.
    ///
    /// # Errors
    /// As [`Self::load_lora`]; [`LoraError::Nowhere`] where the adapter has no layer in the scope.
    pub fn load_scoped_lora(
        &mut self,
        name: &str,
        path: &Path,
        scope: &LoraScope,
    ) -> Result<(), VideoError> {
        if self.adapters.list.iter().any(|l| l.name == name) {
            return Err(LoraError::AdapterExists { name: name.into() }.into());
        }
        let mut adapter = Adapter::read(path, lora_targets())?;
        // Parameters are made when first read: this model has shapes and no memory.
        let shapes = LongCatTransformer::<B>::new(self.transformer_config(), self.device());
        check_fit(&shapes, &adapter)?;
        adapter.restrict(&scope.layers, lora_targets())?;
        let others = self.adapters.list.iter();
        let twins = others.filter(|l| {
            match l.scope.layers.is_everywhere() && scope.layers.is_everywhere() {
                true => same_adapter(&l.adapter, &adapter),
                false => share_layers(&l.adapter, &adapter),
            }
        });
        let twins = twins.map(|l| l.name.clone()).collect();
        self.adapters.list.push(Loaded {
            name: name.to_string(),
            path: path.to_path_buf(),
            adapter,
            scope: scope.clone(),
            twins,
        });
        Ok(())
    }

    /// Uses exactly these adapters with these strengths from the next run on, without any reload.
    ///
    /// # Errors
    /// [`VideoError::Lora`] for a nickname that is not loaded, [`VideoError::Invalid`] for a strength
    /// that is not finite, or where two of them are one adapter by their contents.
    pub fn use_loras(&mut self, chosen: &[(&str, f64)]) -> Result<(), VideoError> {
        self.adapters.choice.loras = self.adapters.check(chosen)?;
        Ok(())
    }

    /// Lets [`Self::with_refinement`] use exactly these adapters with these strengths, in the place of
    /// the checkpoint's refinement adapter alone.
    ///
    /// # Errors
    /// As [`Self::use_loras`].
    pub fn use_refine_loras(&mut self, chosen: &[(&str, f64)]) -> Result<(), VideoError> {
        self.adapters.refining = Some(self.adapters.check(chosen)?);
        Ok(())
    }

    /// Switches block-sparse attention on or off.
    ///
    /// # Errors
    /// [`VideoError::Dit`] when the checkpoint has no parameters for it.
    pub fn set_bsa(&mut self, enabled: bool) -> Result<(), VideoError> {
        self.check_bsa(enabled)?;
        self.adapters.choice.bsa = enabled;
        Ok(())
    }

    fn check_bsa(&self, enabled: bool) -> Result<(), VideoError> {
        match enabled && self.transformer_config().bsa_params.is_none() {
            true => Err(longcat_dit::DitError::NoBsaParams.into()),
            false => Ok(()),
        }
    }

    /// Forgets an adapter.
    ///
    /// # Errors
    /// [`VideoError::Lora`] for a nickname that is not loaded; [`VideoError::Weights`] where it was
    /// merged and the checkpoint cannot be read again.
    pub fn unload_lora(&mut self, name: &str) -> Result<(), VideoError> {
        self.adapters.find(name)?;
        // What was packed again cannot be restored in its place.
        let holds = |status: &AdapterStatus| status.name == name && status.merged;
        let packed = self.is_packed();
        let mut models = self.loaded_transformers().iter();
        if packed && models.any(|model| model.adapters().iter().any(holds)) {
            self.drop_transformers();
        }
        let checkpoint = self.checkpoint().clone();
        for model in self.loaded_transformers() {
            let on = model.adapters();
            let Some(status) = on.iter().find(|status| status.name == name) else {
                continue;
            };
            if status.merged {
                let files = checkpoint.transformer_weights()?;
                model.unmerge_adapters(&CheckpointWeights(&files))?;
            }
            model.unload_adapter(name)?;
        }
        let Adapters {
            list,
            choice,
            refining,
        } = &mut self.adapters;
        list.retain(|l| l.name != name);
        choice.loras.retain(|(n, _)| n != name);
        refining
            .iter_mut()
            .for_each(|c| c.retain(|(n, _)| n != name));
        Ok(())
    }

    /// The adapters, in the order in which they were loaded.
    pub fn loras(&self) -> Vec<LoraStatus> {
        let chosen = &self.adapters.choice.loras;
        let status = |l: &Loaded| {
            let choice = chosen.iter().find(|(name, _)| *name == l.name);
            LoraStatus {
                name: l.name.clone(),
                path: l.path.clone(),
                scope: l.scope.clone(),
                same_as: l.twins.clone(),
                strength: choice.map_or(1.0, |(_, strength)| *strength),
                enabled: choice.is_some(),
            }
        };
        self.adapters.list.iter().map(status).collect()
    }

    /// Whether an adapter holds the same as a file, on its layers where it has a scope. Of another adapter no
    /// more than a layer is read.
    ///
    /// # Errors
    /// [`VideoError::Lora`] for a nickname that is not loaded or a file that cannot be read.
    pub fn is_lora_of(&self, name: &str, path: &Path) -> Result<bool, VideoError> {
        let Loaded { adapter, scope, .. } = self.adapters.find(name)?;
        Ok(is_of_file(adapter, !scope.layers.is_everywhere(), path)?)
    }

    /// Runs `task` with block-sparse attention and the adapters of refining alone: those of
    /// [`Self::use_refine_loras`], else the checkpoint's refinement adapter. They are merged if
    /// [`Self::merge_loras`] was called. Afterwards adapters and attention are as before, also when
    /// the task fails.
    ///
    /// # Errors
    /// Those of the task, and of loading the adapter.
    pub fn with_refinement<T>(
        &mut self,
        task: impl FnOnce(&mut Self) -> Result<T, VideoError>,
    ) -> Result<T, VideoError> {
        self.check_bsa(true)?;
        if self.adapters.refining.is_none() {
            if self.adapters.find(REFINEMENT_LORA).is_err() {
                let path = self.checkpoint().bundled_lora(REFINEMENT_LORA)?;
                self.load_lora(REFINEMENT_LORA, &path)?;
            }
            self.use_refine_loras(&[(REFINEMENT_LORA, 1.0)])?;
        }
        let refining = Choice {
            loras: self.adapters.refining.clone().unwrap_or_default(),
            bsa: true,
            ..self.adapters.choice
        };
        let before = std::mem::replace(&mut self.adapters.choice, refining);
        let result = task(self);
        self.adapters.choice = before;
        result
    }
}
