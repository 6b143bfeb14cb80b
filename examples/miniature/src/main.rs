//! `miniature`: makes, trains and judges the built-in model.

mod commands;

use anyhow::Result;
use clap::Parser;

use commands::{InstallPart, Judge, MakeCheckpoint, MakeShapes, Train, TrainFor};

#[derive(Parser)]
#[command(
    name = "miniature",
    about = "Makes, trains and judges the built-in model",
    arg_required_else_help = true
)]
enum Cli {
    /// Write a small checkpoint in the official layout, with random weights and both adapters.
    MakeCheckpoint(MakeCheckpoint),
    /// Write clips of moving shapes with captions.
    MakeShapes(MakeShapes),
    /// Train as a configuration says: an adapter, or a whole small model.
    Train(Train),
    /// Train for a given time: the number of steps is what fits in it.
    TrainFor(TrainFor),
    /// Put what a training run wrote into a checkpoint directory.
    InstallPart(InstallPart),
    /// Tell how often a model trained on shapes does what it should.
    Judge(Judge),
}

fn main() -> Result<()> {
    longcat_runtime::keep_freed_memory();
    longcat_runtime::set_up_gpu_runtime();
    match Cli::parse() {
        Cli::MakeCheckpoint(args) => args.run(),
        Cli::MakeShapes(args) => args.run(),
        Cli::Train(args) => args.run(),
        Cli::TrainFor(args) => args.run(),
        Cli::InstallPart(args) => args.run(),
        Cli::Judge(args) => args.run(),
    }
}
