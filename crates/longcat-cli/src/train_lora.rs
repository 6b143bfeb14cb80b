//! `longcat train-lora`, which is also `cargo xtask train-lora`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use longcat_builtin::builtin_checkpoint;
use longcat_runtime::{DeviceSpec, device_of_rank, plan_training, train_lora_on_ranks};
use longcat_train::{Bar, Quiet, RankError, RankPlace, Ranks, TrainObserver};
use longcat_video::{TextPlan, VaePlan, in_words};
use serde_json::json;

use crate::{device_or_best, interrupt, launch, note, say, warn_of_slower_ways};

/// How long this process may take to end by itself when another rank has failed: a device that waits for
/// that one may do so for ever.
const GRACE: Duration = Duration::from_secs(20);

/// Arguments of `longcat train-lora` and `cargo xtask train-lora`.
#[derive(Debug, Args)]
pub struct TrainLora {
    /// The run: data, adapter, optimiser and what to write (docs/training.md).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1. The best device there is without it. Under
    /// torchrun, srun or mpirun, cuda is the GPU of each rank's local number; cuda:1 is that one for all.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceSpec>,
    /// Train on several devices of this host, a process each: cuda:0,cuda:1. Under torchrun, srun or
    /// mpirun, the devices of this host's ranks.
    #[arg(
        long,
        value_name = "DEVICES",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    pub devices: Vec<DeviceSpec>,
    /// Print the result as JSON and nothing else.
    #[arg(long)]
    pub json: bool,
}

impl TrainLora {
    /// Trains, from the newest checkpoint of the run if there is one. Ctrl-C saves and ends it.
    ///
    /// # Errors
    /// Names the key, file, clip or rank that is at fault.
    pub fn run(&self) -> Result<()> {
        let stop = interrupt()?;
        // One rank by itself, as the shell of an interactive Slurm step is, may start ranks of its own.
        let place = RankPlace::from_env()?;
        let Some(place) = place.filter(|place| place.size > 1 || self.devices.len() < 2) else {
            if !self.devices.is_empty() {
                return launch::start(&self.devices, &stop);
            }
            let device = device_or_best(self.device);
            return self.train(device, Ranks::alone(), &stop);
        };
        launch::follow(&stop);
        let device = self.device_of(&place)?;
        let ranks = match Ranks::meet(&place, &stop) {
            Err(RankError::Interrupted { .. }) => return Ok(()),
            ranks => ranks?,
        };
        if ranks.is_first() && ranks.size() > 1 && !self.json {
            note!("{} ranks; rank 0 runs on {device}", place.size);
        }
        ranks.when_failed(|failure| {
            let failure = failure.to_string();
            thread::spawn(move || {
                thread::sleep(GRACE);
                note!("error: {failure}");
                std::process::exit(1);
            });
        });
        let trained = self.train(device, ranks, &stop);
        trained.with_context(|| format!("rank {} of {}", place.rank, place.size))
    }

    /// Says what each stage takes of the device's memory and does to fit, on the first of several devices.
    ///
    /// # Errors
    /// Names the key or file that is at fault.
    pub fn plan(&self) -> Result<()> {
        let device = device_or_best(self.devices.first().copied().or(self.device));
        let plan = plan_training(device, &self.config, builtin().as_deref())?;
        if self.json {
            let vae = |plan: &VaePlan| {
                let tile = plan.tiling.map(|tiling| tiling.tile);
                json!({"tile": tile, "peak": plan.peak})
            };
            let step = plan.step.map(|step| {
                json!({
                    "resident_blocks": step.resident, "blocks": step.depth, "peak": step.peak,
                })
            });
            let result = json!({
                "budget": plan.budget,
                "clips": vae(&plan.clips),
                "captions": {
                    "resident_layers": plan.captions.resident, "layers": plan.captions.layers,
                    "peak": plan.captions.peak,
                },
                "step": step,
            });
            say!("{result:#}");
            return Ok(());
        }
        match plan.budget {
            Some(budget) => say!("{} of device memory may be taken", in_words(budget)),
            None => say!("no limit: the device does not tell what is free, or memory is unlimited"),
        }
        let clips = match plan.clips.tiling {
            None => "whole pictures".to_string(),
            Some(tiling) => format!("tiles of {}x{}", tiling.tile[1], tiling.tile[0]),
        };
        let TextPlan {
            resident,
            layers,
            peak,
        } = plan.captions;
        let captions = format!("{resident} of {layers} layers stay");
        let mut stages = vec![
            ("encoding clips", clips, plan.clips.peak),
            ("encoding captions", captions, peak),
        ];
        match plan.step {
            Some(step) => {
                let what = format!("{} of {} blocks stay", step.resident, step.depth);
                stages.push(("a training step", what, step.peak));
            }
            None => say!(
                "a training step: all weights stay; it is planned for adapters with train.checkpointing"
            ),
        }
        for (stage, what, peak) in stages {
            say!("{stage:<24} {what:<56} {:>11}", in_words(peak));
        }
        Ok(())
    }

    /// The device of one of several ranks.
    fn device_of(&self, place: &RankPlace) -> Result<DeviceSpec> {
        match (self.devices.get(place.local_rank), self.devices.len()) {
            (Some(device), _) => Ok(*device),
            (None, 0) => Ok(device_of_rank(self.device, place.local_rank)),
            (None, count) => bail!(
                "--devices names {count} devices, and there is a rank number {} on this host (from 0)",
                place.local_rank
            ),
        }
    }

    /// Trains as one of some ranks, of which the first speaks.
    fn train(&self, device: DeviceSpec, ranks: Ranks, stop: &Arc<AtomicBool>) -> Result<()> {
        let speaks = ranks.is_first();
        let mut bar = Bar::default();
        let mut quiet = Quiet;
        let observer: &mut dyn TrainObserver = match speaks && !self.json {
            true => &mut bar,
            false => &mut quiet,
        };
        let builtin = builtin();
        let builtin = builtin.as_deref();
        let outcome = train_lora_on_ranks(device, &self.config, builtin, ranks, observer, stop)?;
        if !speaks {
            return Ok(());
        }
        warn_of_slower_ways();
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

/// The built-in model, which only a configuration without a checkpoint needs; it says so if it is not there.
fn builtin() -> Option<PathBuf> {
    builtin_checkpoint()
        .inspect_err(|e| note!("warning: unpacking the built-in model: {e}"))
        .ok()
}
