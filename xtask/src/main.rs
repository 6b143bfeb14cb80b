//! Chores of those who work on the code. It only starts other programs, so that it is built in seconds.

mod cargo;
mod house;
mod quotes;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Chores of those who work on the code",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Formatting, the rules of the house, lints with every backend, each backend alone, and licences of
    /// dependencies.
    Check,
    /// The tests that the README names; further arguments go to `cargo test`.
    Test(Rest),
    /// The documentation, without warnings.
    Doc,
    /// The packages of the published crates.
    Package,
    /// Time operations and networks with random weights (`cargo xtask bench --help`).
    Bench(Rest),
    /// Train an adapter: `longcat train-lora`.
    TrainLora(Rest),
}

/// Arguments that go on to the program that is started.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Check => {
            cargo::run("fmt", &["--all", "--check"])?;
            house::check()?;
            cargo::lints()?;
            cargo::backends_alone()?;
            cargo::dependencies()?;
        }
        Command::Test(rest) => cargo::tests(&rest.args)?,
        Command::Doc => cargo::documents()?,
        Command::Package => cargo::packages()?,
        Command::Bench(rest) => return cargo::program("xtask", "bench", &[], &rest.args),
        Command::TrainLora(rest) => {
            return cargo::program("longcat-cli", "longcat", &["train-lora"], &rest.args);
        }
    }
    Ok(ExitCode::SUCCESS)
}
