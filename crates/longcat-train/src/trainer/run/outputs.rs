//! What a run leaves: measurements, samples, checkpoints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Tensor;
use longcat_kernels::{Stage, guard};
use longcat_partial::Partial;

use super::super::metrics::{Metric, Metrics};
use super::super::state::{Position, State};
use super::super::{Task, Weights};
use super::{PLOT_EVERY, Trainer, due};
use crate::packed::RunningAverage;
use crate::parameters::{trained, update};
use crate::{TrainBackend, TrainError};

impl<B: TrainBackend, T: Task<B>> Trainer<'_, B, T> {
    pub(super) fn log(
        &mut self,
        loss: f64,
        learning_rate: f64,
        gradient_norm: f64,
    ) -> Result<(), TrainError> {
        let due = due(self.step, self.config.train.log_every);
        let samples = self.samples();
        let Some(metrics) = self.metrics.as_mut().filter(|_| due) else {
            return Ok(());
        };
        metrics.push(Metric::Step {
            step: self.step,
            loss,
            learning_rate,
            gradient_norm,
            samples,
            epoch: self.batches as f64 / self.task.batches_per_epoch().max(1) as f64,
        })?;
        if self.plotted.elapsed() >= PLOT_EVERY {
            self.plotted = Instant::now();
            metrics.draw()?;
        }
        Ok(())
    }

    pub(super) fn samples(&self) -> u64 {
        self.batches * self.config.train.batch as u64
    }

    /// As [`Self::report`]; what an interrupt leaves undone is done when the run goes on.
    pub(super) fn is_interrupted_in_report(
        &mut self,
        model: &T::Model,
    ) -> Result<bool, TrainError> {
        match self.report(model) {
            Ok(()) => Ok(false),
            Err(TrainError::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Validation and samples that are due after the present step, on the rank that writes.
    fn report(&mut self, model: &T::Model) -> Result<(), TrainError> {
        let Some(metrics) = &mut self.metrics else {
            return Ok(());
        };
        let last = self.step == self.config.train.steps;
        let every = self.config.validation.as_ref().map(|v| v.every);
        let wanted = every.is_some_and(|every| due(self.step, every) || last);
        if wanted && !metrics.has_validation(self.step) {
            let validate = || self.task.validate(model, self.interrupt);
            let by_sigma =
                guard::<B::InnerBackend, _, _>(&self.devices, Stage::Validating, validate);
            let by_sigma = by_sigma.map_err(|e: TrainError| e.after_step(self.step))?;
            let sum: f64 = by_sigma.iter().map(|(_, loss)| loss).sum();
            let validation_loss = sum / by_sigma.len().max(1) as f64;
            self.validation_loss = Some(validation_loss);
            metrics.push(Metric::Validation {
                step: self.step,
                validation_loss,
                by_sigma,
            })?;
            self.observer.validated(self.step, validation_loss);
        }
        let every = self.config.samples.as_ref().map(|s| s.every);
        if every.is_some_and(|every| due(self.step, every) || last) {
            let name = format!("step-{:06}", self.step);
            let folder = self.config.output.join("samples").join(name);
            // Made again only if they are not there: a resumed run has those of its first step.
            if !folder.is_dir() {
                let partial = Partial::new(&folder);
                let io = |e| TrainError::io(&folder, e);
                std::fs::create_dir_all(partial.path()).map_err(io)?;
                self.task.sample(model, partial.path(), self.interrupt)?;
                partial.finish().map_err(io)?;
                self.observer.saved(&folder);
            }
        }
        Ok(())
    }

    pub(super) fn save(&mut self, model: &T::Model) -> Result<PathBuf, TrainError> {
        if let Some((step, folder)) = &self.saved
            && *step == self.step
        {
            return Ok(folder.clone());
        }
        let state = State {
            position: self.position(),
            parameters: trained::<B, _>(model),
            moments: self.optimizer.state(),
            average: self.averages(),
        };
        let keep = self.config.checkpoints.keep;
        // The folder gets its name when the closure is through: by then all that is in it is known to
        // be right.
        let folder = guard::<B::InnerBackend, _, _>(&self.devices, Stage::Saving, || {
            self.store.save(&state, keep, |folder| {
                guard::<B::InnerBackend, _, _>(&self.devices, Stage::Saving, || {
                    self.export(model, folder, &state.position)
                })
            })
        })?;
        self.draw()?;
        self.saved = Some((self.step, folder.clone()));
        self.observer.saved(&folder);
        Ok(folder)
    }

    /// The trained part, and its running average if there is one.
    pub(super) fn export(
        &self,
        model: &T::Model,
        folder: &Path,
        position: &Position,
    ) -> Result<(), TrainError> {
        self.task.export(model, folder, Weights::Last, position)?;
        let mut averages = self.averages();
        if averages.is_empty() {
            return Ok(());
        }
        let averaged = update::<B, _>(model.clone(), |path, values| {
            Some(averages.remove(path)?.cast(values.dtype()))
        });
        self.task
            .export(&averaged, folder, Weights::Average, position)
    }

    /// The running average by module path; empty if there is none.
    pub(super) fn averages(&self) -> BTreeMap<String, Tensor<B::InnerBackend, 1>> {
        let average = self.average.as_ref();
        average.map(RunningAverage::values).unwrap_or_default()
    }

    pub(super) fn position(&self) -> Position {
        Position {
            step: self.step,
            samples: self.samples(),
            seed: self.config.seed,
            config: self.config.settings().clone(),
        }
    }

    pub(super) fn draw(&self) -> Result<(), TrainError> {
        self.metrics.as_ref().map_or(Ok(()), Metrics::draw)
    }
}
