//! Training for a given time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use longcat_runtime::DeviceSpec;
use longcat_train::{Bar, DataSummary, Outcome, StepReport, TrainError, TrainObserver};

use super::train::train;

/// Share of the time that is left after the trial in which steps are made; the rest is for loading,
/// validating and saving.
const TRAINED: f64 = 0.95;
/// Share of the time at the first step that the trial takes, and the most it takes.
const TRIED: (f64, Duration) = (0.15, Duration::from_secs(60));

/// `miniature train-for`.
#[derive(Debug, Args)]
pub struct TrainFor {
    /// The run (docs/training.md); its number of steps is replaced.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How long it is to take in all, preparing data and models included.
    #[arg(long)]
    minutes: f64,
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceSpec,
}

impl TrainFor {
    /// Trains a little, counts how many steps fit in the time, and goes on to that number, so that
    /// the learning rate falls as it should.
    ///
    /// The configuration with that number lies beside the other as `NAME.timed.toml`; an interrupted
    /// run goes on with `train` and that file.
    pub fn run(&self) -> Result<()> {
        let text = fs::read_to_string(&self.config)
            .with_context(|| format!("reading {}", self.config.display()))?;
        let timed = self.config.with_extension("timed.toml");
        let end = Instant::now() + Duration::from_secs_f64(60.0 * self.minutes);
        let stop = longcat_cli::interrupt()?;
        // More than will be done: the trial is to run at the peak of the learning rate.
        fs::write(&timed, with_steps(&text, 1_000_000)?)?;
        let mut trial = Trial::new(Some(end), stop.clone());
        let outcome = trial.train(&timed, self.device)?;
        let (Some(speed), true) = (trial.speed(), trial.over()) else {
            bail!(
                "stopped after step {}, too soon to tell the speed",
                outcome.step
            );
        };
        let left = end.saturating_duration_since(Instant::now());
        let steps = outcome.step + (speed * left.as_secs_f64() * TRAINED) as usize;
        eprintln!("{speed:.2} steps/s: {steps} steps in all");
        fs::write(&timed, with_steps(&text, steps.max(outcome.step + 1))?)?;
        stop.store(false, Ordering::Relaxed);
        Trial::new(None, stop).train(&timed, self.device)?;
        Ok(())
    }
}

/// The configuration with another number of steps.
fn with_steps(text: &str, steps: usize) -> Result<String> {
    let mut section = "";
    let mut found = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim();
        }
        if section == "[train]" && line.starts_with("steps") {
            found = true;
            lines.push(format!("steps = {steps}"));
        } else {
            lines.push(line.to_string());
        }
    }
    if !found {
        bail!("there is no line `steps = …` under [train]");
    }
    Ok(lines.join("\n") + "\n")
}

/// A run that ends by itself some time after its first step, if there is an end to keep to.
struct Trial {
    bar: Bar,
    end: Option<Instant>,
    /// How long it runs; known from the first step on.
    limit: Duration,
    stop: Arc<AtomicBool>,
    /// The first step that was done, and when.
    first: Option<(usize, Instant)>,
    /// The step at half the time: what comes before compiles and tunes kernels.
    middle: Option<(usize, Instant)>,
    last: Option<(usize, Instant)>,
}

impl Trial {
    fn new(end: Option<Instant>, stop: Arc<AtomicBool>) -> Self {
        Self {
            bar: Bar::default(),
            end,
            limit: Duration::MAX,
            stop,
            first: None,
            middle: None,
            last: None,
        }
    }

    fn train(&mut self, config: &Path, device: DeviceSpec) -> Result<Outcome> {
        let stop = self.stop.clone();
        train(config, device, self, &stop)
    }

    /// Whether it ended by itself.
    fn over(&self) -> bool {
        let span = self.first.zip(self.last);
        span.is_some_and(|((_, start), (_, end))| end.duration_since(start) >= self.limit)
    }

    fn speed(&self) -> Option<f64> {
        let ((a, start), (b, end)) = (self.middle?, self.last?);
        let seconds = end.duration_since(start).as_secs_f64();
        (b > a && seconds > 0.0).then(|| (b - a) as f64 / seconds)
    }
}

impl TrainObserver for Trial {
    fn caching(&mut self, what: &str, done: usize, total: usize) {
        self.bar.caching(what, done, total);
    }

    fn skipped(&mut self, problem: &TrainError) {
        self.bar.skipped(problem);
    }

    fn data(&mut self, summary: &DataSummary) {
        self.bar.data(summary);
    }

    fn warned(&mut self, message: &str) {
        self.bar.warned(message);
    }

    fn resumed(&mut self, step: usize, changed: &[String]) {
        self.bar.resumed(step, changed);
    }

    fn step(&mut self, report: &StepReport) {
        self.bar.step(report);
        let now = (report.step, Instant::now());
        let (_, start) = *self.first.get_or_insert(now);
        if let (None, Some(end)) = (self.last, self.end) {
            let (share, most) = TRIED;
            let left = end.saturating_duration_since(start);
            self.limit = left.mul_f64(share).min(most);
        }
        let taken = now.1.duration_since(start);
        if taken >= self.limit / 2 {
            self.middle.get_or_insert(now);
        }
        self.last = Some(now);
        if taken >= self.limit {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn validated(&mut self, step: usize, loss: f64) {
        self.bar.validated(step, loss);
    }

    fn saved(&mut self, path: &Path) {
        self.bar.saved(path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_steps_of_the_run_are_replaced() {
        let text =
            "[distill]\nsteps = 16\n[train]\nsteps = 3 # few\nbatch = 2\n[samples]\nsteps = 50\n";
        let expected =
            "[distill]\nsteps = 16\n[train]\nsteps = 7\nbatch = 2\n[samples]\nsteps = 50\n";
        assert_eq!(with_steps(text, 7).unwrap(), expected);
        assert!(with_steps("[samples]\nsteps = 50\n", 7).is_err());
    }
}
