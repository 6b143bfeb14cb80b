//! `longcat lora inspect`.

use anyhow::{Result, bail};
use longcat_cli::{printable, say};
use longcat_dit::{canonical_names, lora_targets};
use longcat_lora::AdapterReport;
use serde_json::json;

use crate::args::LoraInspect;

/// Shows an adapter, problems first. A file that cannot be loaded is an error.
pub fn inspect(args: &LoraInspect) -> Result<()> {
    let report = AdapterReport::inspect(&args.file, lora_targets())?;
    let modules: Vec<(String, String)> = canonical_names()
        .rules()
        .map(|(from, to)| (from.to_string(), to.to_string()))
        .collect();
    if args.json {
        let mut report = serde_json::to_value(&report)?;
        report["module_rules"] = json!(modules);
        say!("{report:#}");
    } else {
        show(&report, &modules);
    }
    match report.problems.len() {
        0 => Ok(()),
        1 => bail!("{} cannot be loaded", report.path.display()),
        n => bail!("{} cannot be loaded: {n} problems", report.path.display()),
    }
}

fn show(report: &AdapterReport, modules: &[(String, String)]) {
    say!("{}", printable(&report.path.to_string_lossy()));
    list("problems", &report.problems);
    list("warnings", &report.warnings);
    lines(report).iter().for_each(|line| say!("{line}"));
    list("unmatched keys", &report.unmatched);
    let metadata = report.metadata.iter().map(|(k, v)| format!("{k} = {v}"));
    list("metadata", &metadata.collect::<Vec<_>>());
    let pairs = |rows: &[(String, String)]| -> Vec<String> {
        let rows = rows.iter();
        rows.map(|(from, to)| format!("{from}  →  {to}")).collect()
    };
    list("names, from the file", &pairs(&report.format_rules));
    list("names, to canonical", &pairs(&report.name_rules));
    list("names, to the module tree", &pairs(modules));
}

/// What an adapter is, line by line, without its problems and names.
pub fn lines(report: &AdapterReport) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, value) in &report.about {
        lines.push(format!("{}: {}", printable(what), printable(value)));
    }
    let mut row = |what: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{what:<11} {}", printable(value)));
        }
    };
    row("format", report.format.as_str());
    row("layers", &report.layers.to_string());
    row("parameters", &report.parameters.to_string());
    row("ranks", &counts(report.ranks.iter().map(|(k, n)| (k, *n))));
    row(
        "scales",
        &counts(report.scales.iter().map(|(s, n)| (s, *n))),
    );
    row(
        "dtypes",
        &counts(report.dtypes.iter().map(|(d, n)| (d, *n))),
    );
    let others = report.other_changes.iter().map(|(k, n)| (k, *n));
    row("also", &counts(others));
    lines.push("targets".into());
    for target in &report.targets {
        let parts = match target.parts {
            1 => String::new(),
            n => format!(", {n} fused parts"),
        };
        lines.push(format!(
            "  {:5} × {} (rank {:?}{parts})",
            target.count,
            printable(&target.pattern),
            target.ranks
        ));
    }
    lines
}

fn counts<T: ToString>(items: impl Iterator<Item = (T, usize)>) -> String {
    let items: Vec<String> = items
        .map(|(k, n)| format!("{} ({n})", k.to_string()))
        .collect();
    items.join(", ")
}

fn list(title: &str, lines: &[String]) {
    if !lines.is_empty() {
        say!("{title}");
        lines.iter().for_each(|line| say!("  {}", printable(line)));
    }
}
