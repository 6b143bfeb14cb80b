//! Training as a configuration says.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use longcat_builtin::builtin_checkpoint;
use longcat_miniature::MiniatureConfig;
use longcat_runtime::{DeviceSpec, DeviceTask, on_device};
use longcat_train::{Bar, Outcome, TrainError, TrainObserver};
use longcat_video::KernelBackend;

/// `miniature train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The run: a file as docs/training.md describes it, with `[miniature]`.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceSpec,
}

impl Train {
    /// Trains, from the newest checkpoint of the run if there is one. Ctrl-C saves and ends it.
    pub fn run(&self) -> Result<()> {
        let stop = longcat_cli::interrupt()?;
        let outcome = train(&self.config, self.device, &mut Bar::default(), &stop)?;
        if outcome.interrupted {
            println!(
                "stopped after step {}; the same command goes on",
                outcome.step
            );
        }
        Ok(())
    }
}

/// Trains as the file at `config` says, on the built-in model where it names no other.
pub(super) fn train(
    config: &Path,
    device: DeviceSpec,
    observer: &mut dyn TrainObserver,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let builtin = builtin_checkpoint()?;
    let run = Run {
        config: MiniatureConfig::read(config, Some(&builtin))?,
        observer,
        stop,
    };
    Ok(on_device(device, run)??)
}

struct Run<'a> {
    config: MiniatureConfig,
    observer: &'a mut dyn TrainObserver,
    stop: &'a AtomicBool,
}

impl DeviceTask for Run<'_> {
    type Output = Result<Outcome, TrainError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        longcat_miniature::run::<B>(&self.config, &device, self.observer, self.stop)
    }
}
