//! `longcat inspect`: what files are.

use anyhow::{Result, bail};
use longcat_runtime::inspect_weights;
use longcat_video::WeightsReport;

use super::inspect_media;
use crate::args::Inspect;

/// Keys that are listed of each kind.
const SHOWN: usize = 20;

pub fn run(args: &Inspect) -> Result<()> {
    if let Some(found) = inspect_media::find(&args.path)? {
        return found.print(args.json);
    }
    let reports = inspect_weights(&args.path)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        for (index, report) in reports.iter().enumerate() {
            if index > 0 {
                println!();
            }
            show(report);
        }
    }
    let broken: Vec<&WeightsReport> = reports.iter().filter(|r| !r.is_whole()).collect();
    if let Some(report) = broken.first() {
        bail!(
            "{}: {} of {} cannot be loaded as a part of LongCat-Video",
            report.path.display(),
            broken.len(),
            reports.len()
        );
    }
    Ok(())
}

fn show(report: &WeightsReport) {
    println!("{}", printable(&report.path.to_string_lossy()));
    println!("holds   {}", report.holds);
    if let Some(problem) = &report.problem {
        println!("problem {}", printable(problem));
    }
    if let Some(fit) = &report.fit {
        let shapes: Vec<String> = fit
            .mismatched
            .iter()
            .map(|(key, found, needed)| format!("{key}: {found:?}, needed is {needed:?}"))
            .collect();
        list("missing", &fit.missing);
        list("left over", &fit.unused);
        list("of another shape", &shapes);
    }
    if let Some(config) = &report.config {
        println!("config  {config}");
    }
    println!("types");
    for (dtype, amount) in &report.dtypes {
        let gib = amount.bytes as f64 / f64::from(1 << 30);
        println!("  {dtype:16} {:6} tensors {gib:9.3} GiB", amount.tensors);
    }
    println!("layers");
    for (layer, dtypes) in &report.layers {
        let dtypes: Vec<String> = dtypes
            .iter()
            .map(|(dtype, count)| format!("{dtype} ({count})"))
            .collect();
        println!("  {}  {}", printable(layer), dtypes.join(", "));
    }
}

fn list(title: &str, keys: &[String]) {
    if keys.is_empty() {
        return;
    }
    println!("{title} ({})", keys.len());
    for key in keys.iter().take(SHOWN) {
        println!("  {}", printable(key));
    }
    if keys.len() > SHOWN {
        println!("  …");
    }
}

/// Names come from strangers; a terminal may act on control characters.
fn printable(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}
