//! `longcat lora`: adapters without a device.

use std::path::Path;

use anyhow::{Result, bail};
use longcat_cli::{note, printable, say};
use longcat_dit::lora_targets;
use longcat_lora::{
    Adapter, Format, WriteOptions, merge_into_checkpoint_with, merge_into_packed_checkpoint,
};
use serde_json::json;

use super::lora_inspect::inspect;
use super::lora_rank::{extract, resize};
use crate::args::{Lora, LoraCombine, LoraConvert, LoraMerge};
use crate::byte_bar::ByteBar;
use crate::lora_arg::LoraArg;
use crate::lora_list::expand;
use crate::merged::{Staged, requantized_in_words};
use crate::output::{check_adapter, check_new_folder};
use crate::session::checkpoint_dir;

pub fn run(command: Lora) -> Result<()> {
    match command {
        Lora::Inspect(args) => inspect(&args),
        Lora::Convert(args) => convert(&args),
        Lora::Merge(args) => merge(&args),
        Lora::Combine(args) => combine(&args),
        Lora::Resize(args) => resize(&args),
        Lora::Extract(args) => extract(&args),
    }
}

/// Reads an adapter and tells what should be known of it.
pub fn read(path: &Path) -> Result<Adapter> {
    let adapter = Adapter::read(path, lora_targets())?;
    for warning in adapter.warnings() {
        note!(
            "warning: {}: {}",
            printable(&path.to_string_lossy()),
            printable(warning)
        );
    }
    Ok(adapter)
}

/// Reads adapters on their layers; what is written acts in every step and stage.
fn read_all(loras: &[LoraArg]) -> Result<Vec<(Adapter, f64)>> {
    let restricted = |lora: &LoraArg| -> Result<(Adapter, f64)> {
        let mut adapter = read(&lora.path)?;
        adapter.restrict(&lora.scope.layers, lora_targets())?;
        Ok((adapter, lora.strength))
    };
    loras.iter().map(restricted).collect()
}

/// The adapters that a command names, lists among them, if they say nothing of steps and stages.
fn timeless(loras: &[LoraArg]) -> Result<Vec<LoraArg>> {
    let loras = expand(loras)?;
    match loras
        .iter()
        .find(|l| l.scope.steps.is_some() || l.scope.stages.is_some())
    {
        None => Ok(loras),
        Some(lora) => bail!(
            "{}{}: what is written acts in every step and stage; leave out steps and stages",
            lora.path.display(),
            lora.scope
        ),
    }
}

fn weighted(adapters: &[(Adapter, f64)]) -> Vec<(&Adapter, f64)> {
    adapters
        .iter()
        .map(|(a, strength)| (a, *strength))
        .collect()
}

fn convert(args: &LoraConvert) -> Result<()> {
    let format: Format = args.to.parse().map_err(anyhow::Error::msg)?;
    check_adapter(&args.output, format, args.overwrite)?;
    let adapter = read(&args.file)?;
    let options = WriteOptions {
        format,
        split: args.split,
    };
    write(&adapter, &args.output, options, args.json)
}

fn combine(args: &LoraCombine) -> Result<()> {
    let format: Format = args.to.parse().map_err(anyhow::Error::msg)?;
    check_adapter(&args.output, format, args.overwrite)?;
    let files = timeless(&args.files)?;
    let adapters = read_all(&files)?;
    let mut combined = Adapter::combine(&weighted(&adapters))?;
    let sources: Vec<String> = files
        .iter()
        .map(|l| format!("{}={}{}", l.path.display(), l.strength, l.scope))
        .collect();
    combined
        .metadata
        .insert("combined_from".into(), sources.join(", "));
    let options = WriteOptions {
        format,
        split: false,
    };
    write(&combined, &args.output, options, args.json)
}

fn write(adapter: &Adapter, output: &Path, options: WriteOptions, as_json: bool) -> Result<()> {
    adapter.write(output, lora_targets(), options)?;
    let (format, layers) = (options.format, adapter.len());
    if as_json {
        let result = json!({"output": output, "format": format, "layers": layers});
        say!("{result:#}");
    } else {
        let output = output.to_string_lossy();
        say!("{}: {format}, {layers} layers", printable(&output));
    }
    Ok(())
}

fn merge(args: &LoraMerge) -> Result<()> {
    check_new_folder(&args.output)?;
    let adapters = read_all(&timeless(&args.files)?)?;
    let root = checkpoint_dir(args.model.as_deref())?;
    let checkpoint = longcat_video::Checkpoint::open(&root)?;
    let staged = Staged::new(&args.output);
    let bar = ByteBar::new()?;
    let merge = match args.requantize {
        true => merge_into_packed_checkpoint,
        false => merge_into_checkpoint_with,
    };
    let mut report = merge(
        checkpoint.transformer_dir(),
        &weighted(&adapters),
        staged.path(),
        lora_targets(),
        &mut |done, total| bar.wrote(done, total),
    )?;
    bar.finish();
    staged.add_components(&checkpoint)?;
    staged.finish()?;
    report.output.clone_from(&args.output);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        say!(
            "{}: {} weights merged, {} copied",
            printable(&report.output.to_string_lossy()),
            report.merged.len(),
            report.unchanged
        );
        if let Some(off) = &report.requantized {
            say!("{}", requantized_in_words(off));
        }
    }
    Ok(())
}
