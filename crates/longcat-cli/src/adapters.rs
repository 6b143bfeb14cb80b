//! The adapters of a command line, on each stage of the pipeline.

use std::path::Path;

use anyhow::{Context, Result, bail};
use longcat_cli::{note, printable};
use longcat_dit::lora_targets;
use longcat_lora::adapter_warnings;
use longcat_runtime::DynPipeline;
use longcat_video::{CFG_STEP_LORA, LoraScope, LoraStages, REFINEMENT_LORA, UsedAdapter};

use crate::args::{Model, Sampler};
use crate::lora_arg::LoraArg;
use crate::lora_list::{expand, single};
use crate::session::file_name;

/// Which adapters act in which stage.
#[derive(Debug, Clone, Default)]
pub struct Used {
    /// What the pipeline calls them, of both stages.
    names: Vec<String>,
    pub generation: Vec<UsedAdapter>,
    pub refinement: Vec<UsedAdapter>,
}

/// Reads those adapters of a command that are not read yet, checks that they fit, and puts them on: the
/// distilled adapter in generating, the refinement adapter in refining, those of `--lora` where they say,
/// or in both.
///
/// All commands do it here, before any model is loaded. `--merge` merges those of each stage.
pub fn put_on(
    pipeline: &mut dyn DynPipeline,
    model: &Model,
    sampler: Option<&Sampler>,
    refines: bool,
) -> Result<Used> {
    let mut generation = Stage::default();
    let mut refinement = Stage::default();
    let loras = expand(&model.loras)?;
    let distill = sampler.and_then(|sampler| sampler.distill.as_ref());
    if let Some(named) = distill {
        let lora = or_bundled(pipeline, "--distill", named.as_ref(), CFG_STEP_LORA)?;
        generation.add(load(pipeline, &lora).context("distill")?, &lora);
    }
    if refines {
        let named = model.refine_lora.as_ref();
        let lora = or_bundled(pipeline, "--refine-lora", named, REFINEMENT_LORA)?;
        refinement.add(load(pipeline, &lora).context("refine-lora")?, &lora);
    } else if model.refine_lora.is_some() {
        bail!("--refine-lora needs --refine");
    }
    // One that replaces guidance has no place in refining, which has none, whichever option names it.
    let both = sampler.is_some() && refines && loras.iter().any(|l| l.scope.stages.is_none());
    let bundled = (both && distill.is_none())
        .then(|| pipeline.checkpoint().bundled_lora(CFG_STEP_LORA).ok())
        .flatten();
    for lora in &loras {
        let path = lora.path.to_string_lossy();
        let path = printable(&path);
        if !is_loaded(pipeline, lora) {
            let warnings = adapter_warnings(&lora.path, lora_targets()).context("lora")?;
            for warning in warnings {
                note!("warning: {path}: {}", printable(&warning));
            }
        }
        let name = load(pipeline, lora).context("lora")?;
        let (first, second) = match lora.scope.stages {
            Some(LoraStages::First) => (true, false),
            Some(LoraStages::Refine) => (false, true),
            Some(LoraStages::Both) => (true, true),
            None if bundled
                .as_deref()
                .is_some_and(|path| is_same(pipeline, &name, path)) =>
            {
                note!(
                    "{path} is the checkpoint's {CFG_STEP_LORA}: it acts in generating alone; @first,refine \
                     lets it act in refining, too"
                );
                (true, false)
            }
            None => (true, true),
        };
        if lora.scope.stages.is_some() && second && !refines {
            bail!("{path}@refine: nothing is refined; add --refine");
        }
        if lora.scope.stages.is_some() && first && sampler.is_none() {
            bail!("{path}@first: the command refines and has no first stage");
        }
        if first {
            generation.add(name.clone(), lora);
        }
        if second {
            refinement.add(name, lora);
        }
    }
    if sampler.is_some() {
        pipeline.use_loras(&generation.chosen())?;
    }
    if refines {
        pipeline.use_refine_loras(&refinement.chosen())?;
    }
    match (model.merge, model.requantize) {
        (true, true) => pipeline.merge_loras_requantized()?,
        (true, false) => pipeline.merge_loras()?,
        (false, _) => {}
    }
    Ok(Used {
        names: [generation.names, refinement.names].concat(),
        generation: generation.used,
        refinement: refinement.used,
    })
}

/// Forgets adapters of earlier requests, the oldest first, so that few are held which nobody uses.
pub fn forget_others(pipeline: &mut dyn DynPipeline, used: &Used) -> Result<()> {
    /// Enough to go back and forth between some.
    const KEPT: usize = 4;
    let loaded = pipeline.loras().into_iter().map(|lora| lora.name);
    let unused: Vec<String> = loaded.filter(|name| !used.names.contains(name)).collect();
    for name in &unused[..unused.len().saturating_sub(KEPT)] {
        pipeline.unload_lora(name)?;
    }
    Ok(())
}

/// The name of an adapter in the pipeline: one that acts at the same places and times is read once,
/// whatever strengths it is given.
fn nickname(lora: &LoraArg) -> String {
    format!("{}{}", lora.path.display(), everywhere(&lora.scope))
}

/// A scope of places and steps; stages are for this module to see to.
fn everywhere(scope: &LoraScope) -> LoraScope {
    LoraScope {
        stages: None,
        ..scope.clone()
    }
}

fn is_loaded(pipeline: &dyn DynPipeline, lora: &LoraArg) -> bool {
    let name = nickname(lora);
    pipeline.loras().iter().any(|loaded| loaded.name == name)
}

/// Reads an adapter unless it is there already; gives its name.
fn load(pipeline: &mut dyn DynPipeline, lora: &LoraArg) -> Result<String> {
    let name = nickname(lora);
    if !is_loaded(pipeline, lora) {
        pipeline.load_scoped_lora(&name, &lora.path, &everywhere(&lora.scope))?;
    }
    Ok(name)
}

/// Whether an adapter is the one of a file. Whether that can be read is no matter of a command that does not
/// name it.
fn is_same(pipeline: &dyn DynPipeline, name: &str, path: &Path) -> bool {
    pipeline.is_lora_of(name, path).unwrap_or(false)
}

/// The adapter that an option names, or the checkpoint's.
fn or_bundled(
    pipeline: &dyn DynPipeline,
    option: &str,
    named: Option<&LoraArg>,
    bundled: &str,
) -> Result<LoraArg> {
    Ok(match named {
        Some(lora) => single(option, lora)?.clone(),
        None => LoraArg::new(pipeline.checkpoint().bundled_lora(bundled)?),
    })
}

#[derive(Default)]
struct Stage {
    names: Vec<String>,
    used: Vec<UsedAdapter>,
}

impl Stage {
    fn add(&mut self, name: String, lora: &LoraArg) {
        self.names.push(name);
        self.used.push(UsedAdapter {
            name: file_name(&lora.path),
            strength: lora.strength,
            scope: everywhere(&lora.scope).to_string(),
        });
    }

    fn chosen(&self) -> Vec<(&str, f64)> {
        let strengths = self.used.iter().map(|used| used.strength);
        self.names
            .iter()
            .map(String::as_str)
            .zip(strengths)
            .collect()
    }
}
