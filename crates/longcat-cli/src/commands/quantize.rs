//! `longcat quantize`: a checkpoint whose large matrices are packed.

use anyhow::Result;
use longcat_cli::{printable, say};
use longcat_video::{Checkpoint, quantize};
use serde_json::json;

use crate::args::Quantize;
use crate::byte_bar::ByteBar;
use crate::output::check_new_folder;

pub fn run(args: &Quantize) -> Result<()> {
    check_new_folder(&args.output)?;
    let checkpoint = Checkpoint::open(args.weights.with(args.model.as_deref())?)?;
    let bar = ByteBar::new()?;
    let mut progress = |done: u64, total: u64| bar.wrote(done, total);
    quantize(&checkpoint, &args.output, args.to.into(), &mut progress)?;
    let bytes = bar.finish();
    match args.json {
        true => say!("{:#}", json!({"output": args.output, "bytes": bytes})),
        false => say!("{}", printable(&args.output.to_string_lossy())),
    }
    Ok(())
}
