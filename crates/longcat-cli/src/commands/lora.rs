//! `longcat lora`: adapters without a device.

use anyhow::Result;
use longcat_dit::{canonical_names, lora_targets};
use longcat_lora::{Adapter, AdapterReport, Format, WriteOptions, merge_into_checkpoint};
use serde_json::json;

use crate::args::{Lora, LoraConvert, LoraInspect, LoraMerge};
use crate::output::check_writable;
use crate::session::checkpoint_dir;

pub fn run(command: Lora) -> Result<()> {
    match command {
        Lora::Inspect(args) => inspect(&args),
        Lora::Convert(args) => convert(&args),
        Lora::Merge(args) => merge(&args),
    }
}

fn inspect(args: &LoraInspect) -> Result<()> {
    let report = AdapterReport::inspect(&args.file, lora_targets())?;
    let modules: Vec<(String, String)> = canonical_names()
        .rules()
        .map(|(from, to)| (from.to_string(), to.to_string()))
        .collect();
    if args.json {
        let mut report = serde_json::to_value(&report)?;
        report["module_rules"] = json!(modules);
        println!("{report:#}");
        return Ok(());
    }
    println!("{}", report.path.display());
    println!("format      {}", report.format);
    println!("layers      {}", report.layers);
    println!("parameters  {}", report.parameters);
    let counts = |items: Vec<(String, usize)>| {
        let items: Vec<String> = items.iter().map(|(k, n)| format!("{k} ({n})")).collect();
        items.join(", ")
    };
    let keyed = |(k, n): (&usize, &usize)| (k.to_string(), *n);
    println!(
        "ranks       {}",
        counts(report.ranks.iter().map(keyed).collect())
    );
    let scales = report.scales.iter().map(|(s, n)| (s.to_string(), *n));
    println!("scales      {}", counts(scales.collect()));
    let dtypes = report.dtypes.iter().map(|(d, n)| (d.clone(), *n));
    println!("dtypes      {}", counts(dtypes.collect()));
    println!("targets");
    for target in &report.targets {
        let parts = match target.parts {
            1 => String::new(),
            n => format!(", {n} fused parts"),
        };
        println!(
            "  {:5} × {} (rank {:?}{parts})",
            target.count, target.pattern, target.ranks
        );
    }
    let list = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            println!("{title}");
            lines.iter().for_each(|line| println!("  {line}"));
        }
    };
    let pairs = |rows: &[(String, String)]| {
        rows.iter()
            .map(|(from, to)| format!("{from}  →  {to}"))
            .collect()
    };
    list(
        "metadata",
        report
            .metadata
            .iter()
            .map(|(k, v)| format!("{k} = {v}"))
            .collect(),
    );
    list("names, from the file", pairs(&report.format_rules));
    list("names, to canonical", pairs(&report.name_rules));
    list("names, to the module tree", pairs(&modules));
    list("unmatched keys", report.unmatched.clone());
    list("problems", report.problems.clone());
    Ok(())
}

fn convert(args: &LoraConvert) -> Result<()> {
    let format: Format = args.to.parse().map_err(anyhow::Error::msg)?;
    check_writable(&args.output, args.overwrite)?;
    let adapter = Adapter::read(&args.file, lora_targets())?;
    let options = WriteOptions {
        format,
        split: args.split,
    };
    adapter.write(&args.output, lora_targets(), options)?;
    if args.json {
        let result = json!({"output": args.output, "format": format, "layers": adapter.len()});
        println!("{result:#}");
    } else {
        println!(
            "{}: {format}, {} layers",
            args.output.display(),
            adapter.len()
        );
    }
    Ok(())
}

fn merge(args: &LoraMerge) -> Result<()> {
    let adapter = Adapter::read(&args.file.path, lora_targets())?;
    let root = checkpoint_dir(args.model.as_deref())?;
    let checkpoint = longcat_video::Checkpoint::open(&root)?;
    let report = merge_into_checkpoint(
        checkpoint.transformer_dir(),
        &[(&adapter, args.file.strength)],
        &args.output,
        lora_targets(),
    )?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "{}: {} weights merged, {} copied",
            report.output.display(),
            report.merged.len(),
            report.unchanged
        );
    }
    Ok(())
}
