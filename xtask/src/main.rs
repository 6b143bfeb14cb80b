//! Project chores.

mod bench;
mod checkpoint;
mod install;
mod judge;
mod shapes;
mod train_for;

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
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        /// Seed of the weights.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Write clips of moving shapes with captions.
    MakeShapes(shapes::MakeShapes),
    /// Train as a configuration says: an adapter, or a whole small model.
    TrainLora(longcat_cli::TrainLora),
    /// Train for a given time: the number of steps is what fits in it.
    TrainFor(train_for::TrainFor),
    /// Put what a training run wrote into a checkpoint directory.
    InstallPart(install::InstallPart),
    /// Tell how often a model trained on shapes does what it should.
    Judge(judge::Judge),
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
        Command::MakeCheckpoint { output, seed } => checkpoint::write(&output, seed),
        Command::MakeShapes(args) => args.run(),
        Command::TrainLora(args) => args.run(),
        Command::TrainFor(args) => args.run(),
        Command::InstallPart(args) => args.run(),
        Command::Judge(args) => args.run(),
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
