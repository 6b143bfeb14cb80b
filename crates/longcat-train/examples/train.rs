//! Trains on the CPU as a configuration says: `cargo run -p longcat-train --example train FILE`.
//! The tests start and kill this program.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use burn_flex::{Flex, FlexDevice};
use longcat_train::{Bar, run};

fn main() -> ExitCode {
    let Some(config) = std::env::args_os().nth(1) else {
        eprintln!("usage: train CONFIG.toml");
        return ExitCode::from(2);
    };
    let interrupt = AtomicBool::new(false);
    match run::<Flex>(
        config.as_ref(),
        None,
        &FlexDevice,
        &mut Bar::default(),
        &interrupt,
    ) {
        Ok(outcome) => {
            println!("{} steps", outcome.step);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
