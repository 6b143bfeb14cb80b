//! The loop.

mod outputs;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use burn::module::Module;
use sha2::{Digest, Sha256};

use super::Task;
use super::metrics::Metrics;
use super::resume::{compatible, restore};
use super::schedule::Schedule;
use super::share::Found;
use super::state::{Newest, Store};
use crate::config::TrainConfig;
use crate::packed::{Packed, RunningAverage};
use crate::parameters::{flat, read_values, trained, update};
use crate::{
    LoraOptimizer, OptimizerConfig, Ranks, StepReport, TrainBackend, TrainError, TrainObserver,
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
    /// Folder of the newest checkpoint; `None` when interrupted before training, and on ranks that do not
    /// write.
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

/// A run in progress.
pub struct Trainer<'a, B: TrainBackend, T: Task<B>> {
    pub(super) config: &'a TrainConfig,
    pub(super) task: &'a T,
    observer: &'a mut dyn TrainObserver,
    pub(super) interrupt: &'a AtomicBool,
    pub(super) ranks: &'a Ranks,
    /// The one that the model is on.
    pub(super) devices: [B::Device; 1],
    pub(super) optimizer: LoraOptimizer<B::InnerBackend>,
    /// On the rank that writes.
    average: Option<RunningAverage<B::InnerBackend>>,
    /// What the last step made of the parameters, which the model has too.
    pub(super) stepped: Option<Packed<B::InnerBackend>>,
    store: Store,
    /// On the rank that writes.
    metrics: Option<Metrics>,
    schedule: Schedule,
    pub(super) step: usize,
    /// Batches of all ranks so far: the position of data order and random numbers.
    pub(super) batches: u64,
    /// Batches of a step of this rank.
    pub(super) accumulation: usize,
    saved: Option<(usize, PathBuf)>,
    validation_loss: Option<f64>,
    plotted: Instant,
}

impl<'a, B: TrainBackend, T: Task<B>> Trainer<'a, B, T> {
    /// Continues from the newest checkpoint of the output folder, or starts; returns the run and
    /// the model with the parameters of that checkpoint, which are the same on all ranks.
    ///
    /// # Errors
    /// [`TrainError::State`] for a checkpoint of another model, [`TrainError::Io`] and others that
    /// name the file; [`TrainError::Ranks`] where another rank begins elsewhere.
    pub fn new(
        config: &'a TrainConfig,
        task: &'a T,
        model: T::Model,
        device: &B::Device,
        ranks: &'a Ranks,
        observer: &'a mut dyn TrainObserver,
        interrupt: &'a AtomicBool,
    ) -> Result<(Self, T::Model), TrainError> {
        let accumulation = config.accumulation(ranks.size())?;
        let section = &config.optimizer;
        let mut optimizer = LoraOptimizer::new(&OptimizerConfig {
            betas: section.betas,
            epsilon: section.epsilon,
            weight_decay: section.weight_decay,
        })
        .with_up_rate(section.lora_plus);
        // The first rank tidies up before the others look.
        let newest = |store: &Store| store.newest::<B::InnerBackend>(device);
        let (store, newest) = match ranks.is_first() {
            true => {
                let store = Store::open(config.checkpoint_dir())?;
                let newest = newest(&store)?;
                ranks.barrier()?;
                (store, newest)
            }
            false => {
                ranks.barrier()?;
                let store = Store::look_at(config.checkpoint_dir());
                let newest = newest(&store)?;
                (store, newest)
            }
        };
        let mut average = BTreeMap::new();
        let (mut step, mut batches, mut saved, mut model) = (0, 0, None, model);
        if let Some(newest) = newest {
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
            batches = state.position.samples.div_ceil(config.train.batch as u64);
            optimizer.set_state(state.moments);
            average = state.average;
            observer.resumed(step, &changed);
            saved = Some((step, folder));
        }
        same_beginning::<B, _>(ranks, step, &model)?;
        let decay = section.ema_decay.filter(|_| ranks.is_first());
        let average = decay.map(|decay| {
            if average.is_empty() {
                average = flat(trained::<B, _>(&model));
            }
            RunningAverage::new(decay, average)
        });
        let schedule = Schedule::new(section, config.train.steps, step)
            .map_err(|reason| config.problem("optimizer", reason))?;
        let metrics = match ranks.is_first() {
            true => Some(Metrics::open(&config.output, step)?),
            false => None,
        };
        let trainer = Self {
            metrics,
            config,
            task,
            observer,
            interrupt,
            ranks,
            devices: [device.clone()],
            optimizer,
            average,
            stepped: None,
            store,
            schedule,
            step,
            batches,
            accumulation,
            saved,
            validation_loss: None,
            plotted: Instant::now(),
        };
        Ok((trainer, model))
    }

    /// Trains to the last step, or until a rank is interrupted; either way the state is saved.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`], and whatever the task, the disk or another rank reports. The newest
    /// checkpoint stays as it is then.
    pub fn run(mut self, mut model: T::Model) -> Result<Outcome, TrainError> {
        let steps = self.config.train.steps;
        let first = self.step;
        let start = Instant::now();
        // The others hear of it before the next step.
        let mut leaving = self.is_interrupted_in_report(&model)?;
        while self.step < steps {
            let Some(found) = self.gradients(&model, leaving)? else {
                return self.finish(&model, true);
            };
            let Found {
                loss,
                norm,
                values,
                mut gradients,
            } = found;
            let batches = self.batches..self.batches + self.per_step() as u64;
            self.finite("the gradient norm", norm, batches)?;
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
            self.batches += self.per_step() as u64;
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
            leaving = self.is_interrupted_in_report(&model)?;
            let every = self.config.checkpoints.every;
            let wanted = every.is_some_and(|every| due(self.step, every)) && self.step < steps;
            if wanted && !leaving && self.ranks.is_first() {
                self.save(&model)?;
            }
        }
        self.finish(&model, leaving)
    }

    /// Batches of a step of all ranks.
    pub(super) fn per_step(&self) -> usize {
        self.accumulation * self.ranks.size()
    }

    /// An error unless `value`, which came from these batches, is a number.
    pub(super) fn finite(
        &self,
        what: &'static str,
        value: f64,
        batches: Range<u64>,
    ) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        let mut clips: Vec<String> = batches.flat_map(|i| self.task.clips(i)).collect();
        clips.sort();
        clips.dedup();
        Err(TrainError::NotFinite {
            step: self.step + 1,
            what,
            value,
            clips,
        })
    }

    fn finish(mut self, model: &T::Model, interrupted: bool) -> Result<Outcome, TrainError> {
        let mut checkpoint = None;
        if self.ranks.is_first() {
            checkpoint = Some(self.save(model)?);
            if !interrupted {
                self.export(model, &self.config.output, &self.position())?;
            }
            self.draw()?;
        }
        self.ranks.barrier()?;
        Ok(Outcome {
            step: self.step,
            interrupted,
            checkpoint,
            validation_loss: self.validation_loss,
        })
    }
}

/// An error on all ranks unless they begin after the same step, with the same parameters.
fn same_beginning<B: TrainBackend, M: Module<B>>(
    ranks: &Ranks,
    step: usize,
    model: &M,
) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut hash = Sha256::new();
    for (path, parameter) in trained::<B, _>(model) {
        hash.update(path.as_bytes());
        for value in read_values(parameter.values, &path)? {
            hash.update(value.to_le_bytes());
        }
    }
    let mut mine = step.to_string().into_bytes();
    mine.push(b' ');
    mine.extend(hash.finalize());
    let differs = |first: &[u8]| {
        let number = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == b' ');
            bytes[..end.unwrap_or(0)].to_vec()
        };
        if mine == first {
            return None;
        }
        if number(&mine) == number(first) {
            return Some(
                "it begins with other parameters; all ranks need the same files, lora.start_from among \
                 them"
                    .to_string(),
            );
        }
        Some(format!(
            "it finds another newest checkpoint (step {step}); output must be a folder that all ranks \
             share"
        ))
    };
    Ok(ranks.same(mine.clone(), differs)?)
}

fn due(step: usize, every: usize) -> bool {
    step.is_multiple_of(every)
}
