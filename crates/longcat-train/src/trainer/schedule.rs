//! Learning rates.

use burn::lr_scheduler::LrScheduler;
use burn::lr_scheduler::cosine::{CosineAnnealingLrScheduler, CosineAnnealingLrSchedulerConfig};
use burn::lr_scheduler::linear::{LinearLrScheduler, LinearLrSchedulerConfig};

use crate::config::{OptimizerSection, ScheduleKind};

/// Learning rates of a run: Burn's schedulers, a linear warm-up before the chosen course.
pub(crate) struct Schedule {
    warmup: Option<LinearLrScheduler>,
    warmup_left: usize,
    course: Course,
}

enum Course {
    Constant(f64),
    Cosine(CosineAnnealingLrScheduler),
    Linear(LinearLrScheduler),
}

impl Schedule {
    /// The schedule of `steps` steps, with `done` of them behind it.
    ///
    /// # Errors
    /// What Burn finds wrong with the rates.
    pub(crate) fn new(
        config: &OptimizerSection,
        steps: usize,
        done: usize,
    ) -> Result<Self, String> {
        let (peak, least) = (config.learning_rate, config.min_learning_rate);
        let warmup_steps = config.warmup_steps;
        // The warm-up ends one step before the peak, with which the course begins.
        let warmup = match warmup_steps {
            0 => None,
            n => {
                let first = peak / (n + 1) as f64;
                Some(LinearLrSchedulerConfig::new(first, peak, n).init()?)
            }
        };
        let length = steps.saturating_sub(warmup_steps + 1).max(1);
        let course = match config.schedule {
            ScheduleKind::Constant => Course::Constant(peak),
            ScheduleKind::Cosine => Course::Cosine(
                CosineAnnealingLrSchedulerConfig::new(peak, length)
                    .with_min_lr(least)
                    .init()?,
            ),
            ScheduleKind::Linear => {
                Course::Linear(LinearLrSchedulerConfig::new(peak, least, length).init()?)
            }
        };
        let mut schedule = Self {
            warmup,
            warmup_left: warmup_steps,
            course,
        };
        for _ in 0..done {
            schedule.next();
        }
        Ok(schedule)
    }

    /// The rate of the next step.
    pub(crate) fn next(&mut self) -> f64 {
        if let (Some(warmup), true) = (&mut self.warmup, self.warmup_left > 0) {
            self.warmup_left -= 1;
            return warmup.step();
        }
        match &mut self.course {
            Course::Constant(rate) => *rate,
            Course::Cosine(course) => course.step(),
            Course::Linear(course) => course.step(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn section(schedule: ScheduleKind, warmup_steps: usize) -> OptimizerSection {
        OptimizerSection {
            learning_rate: 0.1,
            min_learning_rate: 0.02,
            schedule,
            warmup_steps,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.01,
            lora_plus: 1.0,
            max_grad_norm: None,
            ema_decay: None,
        }
    }

    fn rates(schedule: ScheduleKind, warmup_steps: usize, steps: usize) -> Vec<f64> {
        let config = section(schedule, warmup_steps);
        let mut schedule = Schedule::new(&config, steps, 0).unwrap();
        (0..steps).map(|_| schedule.next()).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-12, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn courses_begin_at_the_peak_and_end_at_the_least_rate() {
        assert_close(&rates(ScheduleKind::Constant, 0, 3), &[0.1; 3]);
        assert_close(
            &rates(ScheduleKind::Linear, 0, 5),
            &[0.1, 0.08, 0.06, 0.04, 0.02],
        );
        assert_close(&rates(ScheduleKind::Cosine, 0, 3), &[0.1, 0.06, 0.02]);
    }

    #[test]
    fn the_warm_up_rises_to_the_peak() {
        let expected = [0.025, 0.05, 0.075, 0.1, 0.06, 0.02];
        assert_close(&rates(ScheduleKind::Cosine, 3, 6), &expected);
    }

    #[test]
    fn a_resumed_schedule_goes_on_where_it_was() {
        let config = section(ScheduleKind::Cosine, 4);
        let mut whole = Schedule::new(&config, 20, 0).unwrap();
        let all: Vec<f64> = (0..20).map(|_| whole.next()).collect();
        let mut rest = Schedule::new(&config, 20, 9).unwrap();
        assert_eq!(rest.next(), all[9]);
    }
}
