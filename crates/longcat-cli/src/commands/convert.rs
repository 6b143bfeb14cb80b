//! `longcat convert`: a checkpoint in another layout.

use anyhow::Result;
use longcat_cli::{printable, say};
use longcat_video::{Checkpoint, convert_to_comfyui, convert_to_official};
use serde_json::json;

use crate::args::{Convert, Layout};
use crate::byte_bar::ByteBar;
use crate::output::{check_file, check_new_folder};

pub fn run(args: &Convert) -> Result<()> {
    match args.to {
        Layout::Official => check_new_folder(&args.output)?,
        Layout::Comfyui => check_file(&args.output, args.overwrite)?,
    }
    let checkpoint = Checkpoint::open(args.weights.with(args.model.as_deref())?)?;
    let bar = ByteBar::new()?;
    let mut progress = |done: u64, total: u64| bar.wrote(done, total);
    let dtype = args.dtype.map(Into::into);
    match args.to {
        Layout::Official => {
            convert_to_official(&checkpoint, &args.output, dtype, &mut progress)?;
        }
        Layout::Comfyui => convert_to_comfyui(&checkpoint, &args.output, dtype, &mut progress)?,
    }
    let bytes = bar.finish();
    match args.json {
        true => say!("{:#}", json!({"output": args.output, "bytes": bytes})),
        false => say!("{}", printable(&args.output.to_string_lossy())),
    }
    Ok(())
}
