//! The `longcat` command.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod adapters;
mod args;
mod batch;
mod byte_bar;
mod commands;
mod failure;
mod finished;
mod left_latents;
mod lora_arg;
mod lora_list;
mod merged;
mod output;
mod preview_file;
mod prompt;
mod report;
mod request;
mod serve;
mod session;
mod shape;
mod source;
mod stage_bar;
mod stage_times;
mod successor;
mod weights_arg;
mod write_decoded;

use std::process::ExitCode;

use args::{Cli, Command, Plan};
use commands::plan::Task;
use failure::video_error;
use longcat_cli::note;
use longcat_video::VideoError;

fn main() -> ExitCode {
    let cli = Cli::read();
    longcat_runtime::keep_freed_memory();
    longcat_runtime::set_up_gpu_runtime();
    let result = match cli.command {
        Command::T2v(args) => commands::generate::text_to_video(&args, Task::Make),
        Command::I2v(args) => commands::generate::image_to_video(&args, Task::Make),
        Command::Continue(args) => commands::generate::continue_video(&args, Task::Make),
        Command::Long(args) => commands::long::run(&args, Task::Make),
        Command::Refine(args) => commands::refine::run(&args, Task::Make),
        Command::Plan(Plan::T2v(args)) => commands::generate::text_to_video(&args, Task::Plan),
        Command::Plan(Plan::I2v(args)) => commands::generate::image_to_video(&args, Task::Plan),
        Command::Plan(Plan::Continue(args)) => {
            commands::generate::continue_video(&args, Task::Plan)
        }
        Command::Plan(Plan::Long(args)) => commands::long::run(&args, Task::Plan),
        Command::Plan(Plan::Refine(args)) => commands::refine::run(&args, Task::Plan),
        Command::Plan(Plan::TrainLora(args)) => args.plan(),
        Command::Batch(args) => batch::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Decode(args) => commands::decode::run(&args),
        Command::Lora(args) => commands::lora::run(args),
        Command::TrainLora(args) => args.run(),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Quantize(args) => commands::quantize::run(&args),
        Command::Calibrate(args) => commands::calibrate::run(&args),
        Command::Pull(args) => commands::pull::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Parsers of settings show the place over several lines.
            for (index, line) in format!("{error:#}").lines().enumerate() {
                let start = if index == 0 { "error: " } else { "" };
                note!("{start}{}", longcat_cli::printable(line));
            }
            ExitCode::from(if is_bad_request(&error) { 2 } else { 1 })
        }
    }
}

/// Whether the request itself is at fault: that ends as clap does for arguments it cannot read.
fn is_bad_request(error: &anyhow::Error) -> bool {
    matches!(
        video_error(error),
        Some(VideoError::Invalid { .. } | VideoError::DoesNotFit(_))
    )
}
