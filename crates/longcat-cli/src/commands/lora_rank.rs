//! `longcat lora resize` and `longcat lora extract`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use longcat_cli::{printable, say};
use longcat_dit::lora_targets;
use longcat_lora::{Adapter, Format, LowRankReport, RankRule, WriteOptions};
use longcat_video::Checkpoint;
use longcat_weights::WeightFiles;
use serde_json::json;

use super::lora::read;
use crate::args::{LoraExtract, LoraResize, LoraWritten};
use crate::output::check_adapter;

pub fn resize(args: &LoraResize) -> Result<()> {
    let format = format(&args.written)?;
    let rule = match (args.rank, args.energy) {
        (Some(rank), _) => RankRule::Rank(rank),
        (None, share) => RankRule::Energy(share.unwrap_or(1.0)),
    };
    let adapter = read(&args.file)?;
    let bar = bar();
    let (small, report) = adapter.resized(rule, &mut |done, of| show(&bar, done, of))?;
    bar.finish_and_clear();
    write(&small, &report, format, &args.written)
}

pub fn extract(args: &LoraExtract) -> Result<()> {
    let format = format(&args.written)?;
    let base = WeightFiles::open(&transformer(&args.base))?;
    let tuned = WeightFiles::open(&transformer(&args.tuned))?;
    let bar = bar();
    let (adapter, report) =
        Adapter::extracted(&base, &tuned, lora_targets(), args.rank, &mut |done, of| {
            show(&bar, done, of)
        })?;
    bar.finish_and_clear();
    write(&adapter, &report, format, &args.written)
}

/// The transformer of a checkpoint directory, or what was given.
fn transformer(path: &Path) -> PathBuf {
    match Checkpoint::open(path) {
        Ok(checkpoint) => checkpoint.transformer_dir().to_path_buf(),
        Err(_) => path.to_path_buf(),
    }
}

fn format(written: &LoraWritten) -> Result<Format> {
    let format: Format = written.to.parse().map_err(anyhow::Error::msg)?;
    check_adapter(&written.output, format, written.overwrite)?;
    Ok(format)
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} (left: {eta})");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn show(bar: &ProgressBar, done: usize, of: usize) {
    bar.set_length(of as u64);
    bar.set_position(done as u64);
}

fn write(
    adapter: &Adapter,
    report: &LowRankReport,
    format: Format,
    written: &LoraWritten,
) -> Result<()> {
    let options = WriteOptions {
        format,
        split: false,
    };
    adapter.write(&written.output, lora_targets(), options)?;
    if written.json {
        let mut result = serde_json::to_value(report)?;
        result["output"] = json!(written.output);
        result["format"] = json!(format);
        result["layers"] = json!(adapter.len());
        say!("{result:#}");
        return Ok(());
    }
    let output = written.output.to_string_lossy();
    say!("{}: {format}, {} layers", printable(&output), adapter.len());
    say!("relative error {:.3e}", report.relative_error);
    if let Some((layer, error)) = &report.worst {
        say!("largest in      {} ({error:.3e})", printable(layer));
    }
    if !report.left_out.is_empty() {
        say!(
            "left out: {} tensors that differ and carry no factors (biases, norms), such as {}",
            report.left_out.len(),
            printable(&report.left_out[0])
        );
    }
    Ok(())
}
