//! `longcat train-lora`, which is also `cargo xtask train-lora`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use longcat_builtin::builtin_checkpoint;
use longcat_runtime::{DeviceSpec, train_lora};
use longcat_train::{Bar, Quiet, TrainObserver};
use serde_json::json;

use crate::{device_or_best, interrupt, note, say};

/// Arguments of `longcat train-lora` and `cargo xtask train-lora`.
#[derive(Debug, Args)]
pub struct TrainLora {
    /// The run: data, adapter, optimiser and what to write (docs/training.md).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1. The best device there is without it.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceSpec>,
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
        let device = device_or_best(self.device);
        let mut bar = Bar::default();
        let mut quiet = Quiet;
        let observer: &mut dyn TrainObserver = if self.json { &mut quiet } else { &mut bar };
        // Only a configuration without a checkpoint needs it, and says so if it is not there.
        let builtin = builtin_checkpoint()
            .inspect_err(|e| note!("warning: unpacking the built-in model: {e}"))
            .ok();
        let outcome = train_lora(device, &self.config, builtin.as_deref(), observer, &stop)?;
        if self.json {
            let result = json!({
                "step": outcome.step,
                "interrupted": outcome.interrupted,
                "checkpoint": outcome.checkpoint,
                "validation_loss": outcome.validation_loss,
            });
            say!("{result:#}");
        } else if outcome.interrupted {
            say!(
                "stopped after step {}; the same command goes on",
                outcome.step
            );
        }
        Ok(())
    }
}
