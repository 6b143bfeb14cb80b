//! `longcat convert`: a checkpoint in another layout.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use longcat_cli::say;
use longcat_video::{Checkpoint, convert_to_comfyui, convert_to_official};
use serde_json::json;

use crate::args::{Convert, Layout};
use crate::output::check_writable;

pub fn run(args: &Convert) -> Result<()> {
    check_writable(&args.output, args.overwrite)?;
    let checkpoint = Checkpoint::open(args.weights.with(args.model.as_deref())?)?;
    let interrupt = longcat_cli::interrupt()?;
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::no_length().with_style(style);
    let mut progress = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
        match interrupt.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let dtype = args.dtype.map(Into::into);
    match args.to {
        Layout::Official => {
            convert_to_official(&checkpoint, &args.output, dtype, &mut progress)?;
        }
        Layout::Comfyui => convert_to_comfyui(&checkpoint, &args.output, dtype, &mut progress)?,
    }
    bar.finish_and_clear();
    match args.json {
        true => say!(
            "{:#}",
            json!({"output": args.output, "bytes": bar.length()})
        ),
        false => say!("{}", args.output.display()),
    }
    Ok(())
}
