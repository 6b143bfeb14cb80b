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
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Dense and block-sparse attention.
    Attention(bench::Attention),
    /// A forward pass of the transformer.
    Dit(bench::Dit),
    /// The linear layers of the released transformer.
    Linear(bench::Linear),
    /// Loading the transformer of an official directory.
    Load(bench::Load),
    /// Encoding a prompt.
    Text(bench::Text),
    /// An optimiser step of an adapter.
    Train(bench::Train),
    /// Decoding and encoding a clip.
    Vae(bench::Vae),
}

fn main() -> Result<()> {
    longcat_runtime::keep_freed_memory();
    longcat_runtime::set_up_gpu_runtime();
    match Cli::parse().command {
        Command::TrainLora(args) => args.run(),
        Command::Bench(bench) => match bench {
            Bench::Attention(bench) => bench.run(),
            Bench::Dit(bench) => bench.run(),
            Bench::Linear(bench) => bench.run(),
            Bench::Load(bench) => bench.run(),
            Bench::Text(bench) => bench.run(),
            Bench::Train(bench) => bench.run(),
            Bench::Vae(bench) => bench.run(),
        },
    }
}
