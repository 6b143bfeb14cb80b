//! The `longcat` command.

mod args;
mod commands;
mod progress;
mod session;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    longcat_runtime::keep_freed_memory();
    longcat_runtime::set_up_gpu_runtime();
    let result = match cli.command {
        Command::T2v(args) => commands::generate::text_to_video(args),
        Command::I2v(args) => commands::generate::image_to_video(args),
        Command::Continue(args) => commands::generate::continue_video(args),
        Command::Long(args) => commands::long::run(args),
        Command::Refine(args) => commands::refine::run(args),
        Command::Lora(args) => commands::lora::run(args),
        Command::TrainLora(args) => args.run(),
        Command::Devices(args) => commands::devices::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // As clap does for arguments it cannot read: the request itself is at fault.
            let bad_request = error
                .downcast_ref::<longcat_video::VideoError>()
                .is_some_and(|e| matches!(e, longcat_video::VideoError::Invalid { .. }));
            ExitCode::from(if bad_request { 2 } else { 1 })
        }
    }
}
