//! `longcat inspect`: what files are.

use anyhow::{Result, bail};
use longcat_cli::{printable, say};
use longcat_runtime::inspect_weights;
use longcat_video::WeightsReport;

use super::inspect_media;
use crate::args::Inspect;

/// Keys that are listed of each kind.
const SHOWN: usize = 20;

pub fn run(args: &Inspect) -> Result<()> {
    // What is neither a path nor the name of a repository in the cache is not there, whichever was meant.
    let path = longcat_hub::find_model(&args.path).unwrap_or_else(|_| args.path.clone());
    if let Some(found) = inspect_media::find(&path)? {
        return found.print(args.json);
    }
    let reports = inspect_weights(&path)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        for (index, report) in reports.iter().enumerate() {
            if index > 0 {
                say!("");
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
    say!("{}", printable(&report.path.to_string_lossy()));
    say!("holds   {}", report.holds);
    if let Some(problem) = &report.problem {
        say!("problem {}", printable(problem));
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
        say!("config  {config}");
    }
    say!("types");
    for (dtype, amount) in &report.dtypes {
        let gib = amount.bytes as f64 / f64::from(1 << 30);
        say!("  {dtype:16} {:6} tensors {gib:9.3} GiB", amount.tensors);
    }
    say!("layers");
    for (layer, dtypes) in &report.layers {
        let dtypes: Vec<String> = dtypes
            .iter()
            .map(|(dtype, count)| format!("{dtype} ({count})"))
            .collect();
        say!("  {}  {}", printable(layer), dtypes.join(", "));
    }
}

fn list(title: &str, keys: &[String]) {
    if keys.is_empty() {
        return;
    }
    say!("{title} ({})", keys.len());
    for key in keys.iter().take(SHOWN) {
        say!("  {}", printable(key));
    }
    if keys.len() > SHOWN {
        say!("  …");
    }
}
