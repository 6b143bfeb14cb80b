//! The adapters of a command line, on each stage of the pipeline.

use anyhow::{Result, bail};
use longcat_cli::{note, printable};
use longcat_dit::lora_targets;
use longcat_lora::adapter_warnings;
use longcat_runtime::DynPipeline;
use longcat_video::{CFG_STEP_LORA, REFINEMENT_LORA, UsedAdapter};

use crate::args::{Model, Sampler};
use crate::lora_arg::LoraArg;
use crate::session::file_name;

/// Which adapters act in which stage.
#[derive(Debug, Default)]
pub struct Used {
    pub generation: Vec<UsedAdapter>,
    pub refinement: Vec<UsedAdapter>,
}

/// Reads all adapters of a command, checks that they fit, and puts them on: the distilled adapter in
/// generating, the refinement adapter in refining, those of `--lora` in both.
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
    if let Some(distill) = sampler.and_then(|sampler| sampler.distill.as_ref()) {
        let lora = or_bundled(pipeline, distill.as_ref(), CFG_STEP_LORA)?;
        pipeline.load_lora(CFG_STEP_LORA, &lora.path)?;
        generation.add(CFG_STEP_LORA, &lora);
    }
    if refines {
        let lora = or_bundled(pipeline, model.refine_lora.as_ref(), REFINEMENT_LORA)?;
        pipeline.load_lora(REFINEMENT_LORA, &lora.path)?;
        refinement.add(REFINEMENT_LORA, &lora);
    } else if model.refine_lora.is_some() {
        bail!("--refine-lora needs --refine");
    }
    for (i, lora) in model.loras.iter().enumerate() {
        for warning in adapter_warnings(&lora.path, lora_targets())? {
            let path = lora.path.to_string_lossy();
            note!("warning: {}: {}", printable(&path), printable(&warning));
        }
        let name = format!("lora-{i}");
        pipeline.load_lora(&name, &lora.path)?;
        generation.add(&name, lora);
        refinement.add(&name, lora);
    }
    if sampler.is_some() {
        pipeline.use_loras(&generation.chosen())?;
    }
    if refines {
        pipeline.use_refine_loras(&refinement.chosen())?;
    }
    if model.merge {
        pipeline.merge_loras()?;
    }
    Ok(Used {
        generation: generation.used,
        refinement: refinement.used,
    })
}

/// The adapter that is named, or the checkpoint's.
fn or_bundled(
    pipeline: &dyn DynPipeline,
    named: Option<&LoraArg>,
    bundled: &str,
) -> Result<LoraArg> {
    Ok(match named {
        Some(lora) => lora.clone(),
        None => LoraArg {
            path: pipeline.checkpoint().bundled_lora(bundled)?,
            strength: 1.0,
        },
    })
}

#[derive(Default)]
struct Stage {
    names: Vec<String>,
    used: Vec<UsedAdapter>,
}

impl Stage {
    fn add(&mut self, name: &str, lora: &LoraArg) {
        self.names.push(name.to_string());
        self.used.push(UsedAdapter {
            name: file_name(&lora.path),
            strength: lora.strength,
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
