use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use longcat_builtin::builtin_checkpoint;
use longcat_runtime::{DeviceSpec, DeviceTask, on_device};
use longcat_train::{Bar, Outcome, Quiet, TrainError, TrainObserver};
use longcat_video::KernelBackend;
use serde_json::json;

use crate::interrupt;

/// Arguments of `longcat train-lora` and `cargo xtask train-lora`.
#[derive(Debug, Args)]
pub struct TrainLora {
    /// The run: data, adapter, optimiser and what to write (docs/training.md).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where to run: cpu, wgpu[:i] or cuda[:i].
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceSpec,
    /// Print the result as JSON and nothing else.
    #[arg(long)]
    pub json: bool,
}

impl TrainLora {
    /// Trains, from the newest checkpoint of the run if there is one. Ctrl-C saves and ends it.
    ///
    /// # Errors
    /// Names the key, file or clip that is at fault.
    pub fn run(&self) -> Result<()> {
        let stop = interrupt()?;
        let mut bar = Bar::default();
        let mut quiet = Quiet;
        let observer: &mut dyn TrainObserver = if self.json { &mut quiet } else { &mut bar };
        // Only a configuration without a checkpoint needs it, and says so if it is not there.
        let builtin = builtin_checkpoint()
            .inspect_err(|e| eprintln!("warning: unpacking the built-in model: {e}"))
            .ok();
        let outcome = on_device(
            self.device,
            Run {
                args: self,
                builtin: builtin.as_deref(),
                observer,
                stop: &stop,
            },
        )??;
        if self.json {
            let result = json!({
                "step": outcome.step,
                "interrupted": outcome.interrupted,
                "checkpoint": outcome.checkpoint,
                "validation_loss": outcome.validation_loss,
            });
            println!("{result:#}");
        } else if outcome.interrupted {
            println!(
                "stopped after step {}; the same command goes on",
                outcome.step
            );
        }
        Ok(())
    }
}

struct Run<'a> {
    args: &'a TrainLora,
    builtin: Option<&'a Path>,
    observer: &'a mut dyn TrainObserver,
    stop: &'a AtomicBool,
}

impl DeviceTask for Run<'_> {
    type Output = Result<Outcome, TrainError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        longcat_train::run::<B>(
            &self.args.config,
            self.builtin,
            &device,
            self.observer,
            self.stop,
        )
    }
}
