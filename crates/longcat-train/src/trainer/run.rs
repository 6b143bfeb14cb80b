//! The loop.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use longcat_kernels::{Stage, guard};

use super::metrics::{Metric, Metrics};
use super::resume::{compatible, restore};
use super::schedule::Schedule;
use super::state::{Newest, Position, State, Store};
use super::{Task, Weights};
use crate::config::TrainConfig;
use crate::packed::{Packed, RunningAverage};
use crate::parameters::{flat, trained, update};
use crate::{
    Gradients, LoraOptimizer, OptimizerConfig, StepReport, TrainBackend, TrainError, TrainObserver,
};

/// Least time between two drawings of the plot.
const PLOT_EVERY: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Steps done in all.
    pub step: usize,
    /// Whether it was interrupted; the same command goes on from here.
    pub interrupted: bool,
    /// Folder of the newest checkpoint; `None` when interrupted before training.
    pub checkpoint: Option<PathBuf>,
    /// The last validation loss of this process.
    pub validation_loss: Option<f64>,
}

impl Outcome {
    /// That of a run that was interrupted before its first step.
    pub fn before_training() -> Self {
        Self {
            step: 0,
            interrupted: true,
            checkpoint: None,
            validation_loss: None,
        }
    }
}

/// Loss and gradients of a step, with the parameters that they are of.
struct Found<B: TrainBackend> {
    loss: f64,
    norm: f64,
    values: Packed<B::InnerBackend>,
    gradients: Packed<B::InnerBackend>,
}

/// A run in progress.
pub struct Trainer<'a, B: TrainBackend, T: Task<B>> {
    config: &'a TrainConfig,
    task: &'a T,
    observer: &'a mut dyn TrainObserver,
    interrupt: &'a AtomicBool,
    /// The one that the model is on.
    devices: [B::Device; 1],
    optimizer: LoraOptimizer<B::InnerBackend>,
    average: Option<RunningAverage<B::InnerBackend>>,
    /// What the last step made of the parameters, which the model has too.
    stepped: Option<Packed<B::InnerBackend>>,
    store: Store,
    metrics: Metrics,
    schedule: Schedule,
    step: usize,
    saved: Option<(usize, PathBuf)>,
    validation_loss: Option<f64>,
    plotted: Instant,
}

impl<'a, B: TrainBackend, T: Task<B>> Trainer<'a, B, T> {
    /// Continues from the newest checkpoint of the output folder, or starts; returns the run and
    /// the model with the parameters of that checkpoint.
    ///
    /// # Errors
    /// [`TrainError::State`] for a checkpoint of another model, [`TrainError::Io`] and others that
    /// name the file.
    pub fn new(
        config: &'a TrainConfig,
        task: &'a T,
        model: T::Model,
        device: &B::Device,
        observer: &'a mut dyn TrainObserver,
        interrupt: &'a AtomicBool,
    ) -> Result<(Self, T::Model), TrainError> {
        let section = &config.optimizer;
        let mut optimizer = LoraOptimizer::new(&OptimizerConfig {
            betas: section.betas,
            epsilon: section.epsilon,
            weight_decay: section.weight_decay,
        })
        .with_up_rate(section.lora_plus);
        let store = Store::open(config.checkpoint_dir())?;
        let mut average = BTreeMap::new();
        let (mut step, mut saved, mut model) = (0, None, model);
        if let Some(newest) = store.newest::<B::InnerBackend>(device)? {
            let Newest {
                state,
                folder,
                broken,
            } = newest;
            for (broken, error) in broken {
                observer.warned(&format!(
                    "{} cannot be continued ({error}); going on from step {} instead",
                    broken.display(),
                    state.position.step
                ));
            }
            let changed = compatible(config, &state.position, &folder)?;
            model = restore::<B, T>(model, &state, &folder)?;
            step = state.position.step;
            optimizer.set_state(state.moments);
            average = state.average;
            observer.resumed(step, &changed);
            saved = Some((step, folder));
        }
        let average = section.ema_decay.map(|decay| {
            if average.is_empty() {
                average = flat(trained::<B, _>(&model));
            }
            RunningAverage::new(decay, average)
        });
        let schedule = Schedule::new(section, config.train.steps, step)
            .map_err(|reason| config.problem("optimizer", reason))?;
        let trainer = Self {
            metrics: Metrics::open(&config.output, step)?,
            config,
            task,
            observer,
            interrupt,
            devices: [device.clone()],
            optimizer,
            average,
            stepped: None,
            store,
            schedule,
            step,
            saved,
            validation_loss: None,
            plotted: Instant::now(),
        };
        Ok((trainer, model))
    }

    /// Trains to the last step, or until interrupted; either way the state is saved.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`], and whatever the task or the disk reports. The newest checkpoint
    /// stays as it is then.
    pub fn run(mut self, mut model: T::Model) -> Result<Outcome, TrainError> {
        let steps = self.config.train.steps;
        let first = self.step;
        let start = Instant::now();
        if self.is_interrupted_in_report(&model)? {
            return self.finish(&model, true);
        }
        while self.step < steps {
            let Some(found) = self.gradients(&model)? else {
                return self.finish(&model, true);
            };
            let Found {
                loss,
                norm,
                values,
                mut gradients,
            } = found;
            self.finite("the gradient norm", norm, 0..self.config.train.accumulation)?;
            if let Some(limit) = self.config.optimizer.max_grad_norm
                && norm > limit
            {
                gradients.scale(limit / norm);
            }
            let learning_rate = self.schedule.next();
            let stepped = self.optimizer.step_packed(values, gradients, learning_rate);
            let mut new = stepped.values();
            model = update::<B, _>(model, |path, _| new.remove(path));
            if let Some(average) = &mut self.average {
                average.update(&stepped, || flat(trained::<B, _>(&model)));
            }
            self.stepped = Some(stepped);
            self.step += 1;
            self.log(loss, learning_rate, norm)?;
            let done = (self.step - first) as f64;
            let speed = done / start.elapsed().as_secs_f64().max(1e-9);
            self.observer.step(&StepReport {
                step: self.step,
                steps,
                loss,
                learning_rate,
                gradient_norm: norm,
                steps_per_second: speed,
                seconds_left: (steps - self.step) as f64 / speed,
            });
            if self.is_interrupted_in_report(&model)? {
                return self.finish(&model, true);
            }
            let every = self.config.checkpoints.every;
            if every.is_some_and(|every| due(self.step, every)) && self.step < steps {
                self.save(&model)?;
            }
        }
        self.finish(&model, false)
    }

    /// What the next step needs, known to be what the device computed; `None` when interrupted.
    fn gradients(&mut self, model: &T::Model) -> Result<Option<Found<B>>, TrainError> {
        let stage = Stage::Training {
            step: self.step + 1,
        };
        let devices = self.devices.clone();
        guard::<B::InnerBackend, _, _>(&devices, stage, || {
            let Some((loss, gradients)) = self.accumulate(model)? else {
                return Ok(None);
            };
            let (values, gradients) =
                self.optimizer
                    .pack::<B, _>(self.stepped.take(), model, gradients);
            Ok(Some(Found {
                loss,
                norm: gradients.norm()?,
                values,
                gradients,
            }))
        })
    }

    /// Mean loss and gradients of the next step; `None` when interrupted.
    #[allow(clippy::type_complexity)]
    fn accumulate(
        &self,
        model: &T::Model,
    ) -> Result<Option<(f64, Gradients<B::InnerBackend>)>, TrainError> {
        let count = self.config.train.accumulation;
        let mut sum = Gradients::default();
        let mut loss = 0.0;
        for i in 0..count {
            if self.interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (mean, gradients) = self.task.gradients(model, (self.step * count + i) as u64)?;
            self.finite("the loss", mean, i..i + 1)?;
            loss += mean / count as f64;
            sum.add(gradients);
        }
        if count > 1 {
            sum.scale(1.0 / count as f64);
        }
        Ok(Some((loss, sum)))
    }

    /// An error unless `value`, which came from these batches of the next step, is a number.
    fn finite(
        &self,
        what: &'static str,
        value: f64,
        batches: Range<usize>,
    ) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        let first = self.step * self.config.train.accumulation;
        let mut clips: Vec<String> = batches
            .flat_map(|i| self.task.clips((first + i) as u64))
            .collect();
        clips.sort();
        clips.dedup();
        Err(TrainError::NotFinite {
            step: self.step + 1,
            what,
            value,
            clips,
        })
    }

    fn log(&mut self, loss: f64, learning_rate: f64, gradient_norm: f64) -> Result<(), TrainError> {
        let train = &self.config.train;
        if !due(self.step, train.log_every) {
            return Ok(());
        }
        let batches = self.step * train.accumulation;
        self.metrics.push(Metric::Step {
            step: self.step,
            loss,
            learning_rate,
            gradient_norm,
            samples: self.samples(),
            epoch: batches as f64 / self.task.batches_per_epoch().max(1) as f64,
        })?;
        if self.plotted.elapsed() >= PLOT_EVERY {
            self.plotted = Instant::now();
            self.metrics.draw()?;
        }
        Ok(())
    }

    fn samples(&self) -> u64 {
        (self.step * self.config.train.accumulation * self.config.train.batch) as u64
    }

    /// As [`Self::report`]; what an interrupt leaves undone is done when the run goes on.
    fn is_interrupted_in_report(&mut self, model: &T::Model) -> Result<bool, TrainError> {
        match self.report(model) {
            Ok(()) => Ok(false),
            Err(TrainError::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Validation and samples that are due after the present step.
    fn report(&mut self, model: &T::Model) -> Result<(), TrainError> {
        let last = self.step == self.config.train.steps;
        let every = self.config.validation.as_ref().map(|v| v.every);
        let wanted = every.is_some_and(|every| due(self.step, every) || last);
        if wanted && !self.metrics.has_validation(self.step) {
            let validate = || self.task.validate(model, self.interrupt);
            let by_sigma =
                guard::<B::InnerBackend, _, _>(&self.devices, Stage::Validating, validate);
            let by_sigma = by_sigma.map_err(|e: TrainError| e.after_step(self.step))?;
            let sum: f64 = by_sigma.iter().map(|(_, loss)| loss).sum();
            let validation_loss = sum / by_sigma.len().max(1) as f64;
            self.validation_loss = Some(validation_loss);
            self.metrics.push(Metric::Validation {
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
                let temporary = folder.with_extension("new");
                std::fs::create_dir_all(&temporary).map_err(|e| TrainError::io(&temporary, e))?;
                self.task.sample(model, &temporary, self.interrupt)?;
                std::fs::rename(&temporary, &folder).map_err(|e| TrainError::io(&folder, e))?;
                self.observer.saved(&folder);
            }
        }
        Ok(())
    }

    fn save(&mut self, model: &T::Model) -> Result<PathBuf, TrainError> {
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
        self.metrics.draw()?;
        self.saved = Some((self.step, folder.clone()));
        self.observer.saved(&folder);
        Ok(folder)
    }

    /// The trained part, and its running average if there is one.
    fn export(
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
    fn averages(&self) -> BTreeMap<String, Tensor<B::InnerBackend, 1>> {
        let average = self.average.as_ref();
        average.map(RunningAverage::values).unwrap_or_default()
    }

    fn position(&self) -> Position {
        Position {
            step: self.step,
            samples: self.samples(),
            seed: self.config.seed,
            config: self.config.settings().clone(),
        }
    }

    fn finish(mut self, model: &T::Model, interrupted: bool) -> Result<Outcome, TrainError> {
        let checkpoint = self.save(model)?;
        if !interrupted {
            self.export(model, &self.config.output, &self.position())?;
        }
        self.metrics.draw()?;
        Ok(Outcome {
            step: self.step,
            interrupted,
            checkpoint: Some(checkpoint),
            validation_loss: self.validation_loss,
        })
    }
}

fn due(step: usize, every: usize) -> bool {
    step.is_multiple_of(every)
}
