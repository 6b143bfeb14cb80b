//! Project chores.

mod bench;
mod captions;
mod checkpoint;

use std::path::PathBuf;

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
    /// Write a small checkpoint in the official layout, with random weights and both adapters.
    MakeCheckpoint {
        /// Where to write it.
        #[arg(
            long,
            value_name = "DIR",
            default_value = "crates/longcat-video/assets/builtin"
        )]
        output: PathBuf,
        /// Seed of the weights.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Train a LoRA adapter on clips with captions.
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
    match Cli::parse().command {
        Command::MakeCheckpoint { output, seed } => checkpoint::write(&output, seed),
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
