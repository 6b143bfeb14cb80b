//! Project chores.

mod bench;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Project chores",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train an adapter as a configuration says.
    TrainLora(longcat_cli::TrainLora),
    /// Time operations and networks with random weights; one JSON object per line.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> Result<()> {
    longcat_runtime::keep_freed_memory();
    longcat_runtime::set_up_gpu_runtime();
    match Cli::parse().command {
        Command::TrainLora(args) => args.run(),
        Command::Bench(bench) => bench.run(),
    }
}
