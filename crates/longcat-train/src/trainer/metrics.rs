//! Metrics as JSON lines, and the loss plot.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use longcat_weights::write_atomic;
use serde::{Deserialize, Serialize};

use super::plot::plot;
use crate::TrainError;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metric {
    /// Validation after a step.
    Validation {
        /// The step, from 1; 0 before training.
        step: usize,
        /// Mean over clips and noise levels.
        validation_loss: f64,
        /// Mean over clips per noise level.
        by_sigma: Vec<(f64, f64)>,
    },
    /// An optimiser step.
    Step {
        /// The step, from 1.
        step: usize,
        /// Mean loss of its samples.
        loss: f64,
        /// Learning rate.
        learning_rate: f64,
        /// Norm over all gradients before clipping.
        gradient_norm: f64,
        /// Samples seen since the start of the run.
        samples: u64,
        /// Passes over the data.
        epoch: f64,
    },
}

impl Metric {
    pub(super) fn step(&self) -> usize {
        match self {
            Self::Validation { step, .. } | Self::Step { step, .. } => *step,
        }
    }
}

/// `metrics.jsonl` and `loss.svg` of a run.
pub(super) struct Metrics {
    file: File,
    path: PathBuf,
    plot: PathBuf,
    lines: Vec<Metric>,
}

impl Metrics {
    /// Continues the file after `step`: lines of later steps, which will come again, are dropped.
    pub(super) fn open(folder: &Path, step: usize) -> Result<Self, TrainError> {
        let path = folder.join("metrics.jsonl");
        let mut lines = read_metrics(&path)?;
        lines.retain(|line| line.step() <= step && step > 0);
        let mut text = String::new();
        for line in &lines {
            text += &json(line)?;
        }
        write_atomic(&path, text.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|e| TrainError::io(&path, e))?;
        Ok(Self {
            file,
            plot: folder.join("loss.svg"),
            path,
            lines,
        })
    }

    pub(super) fn push(&mut self, line: Metric) -> Result<(), TrainError> {
        self.file
            .write_all(json(&line)?.as_bytes())
            .map_err(|e| TrainError::io(&self.path, e))?;
        self.lines.push(line);
        Ok(())
    }

    /// Whether the validation of a step is there.
    pub(super) fn has_validation(&self, at: usize) -> bool {
        let mut lines = self.lines.iter().rev();
        lines.any(|line| matches!(line, Metric::Validation { step, .. } if *step == at))
    }

    pub(super) fn draw(&self) -> Result<(), TrainError> {
        Ok(write_atomic(&self.plot, plot(&self.lines).as_bytes())?)
    }
}

fn json(line: &Metric) -> Result<String, TrainError> {
    let text = serde_json::to_string(line).map_err(|e| TrainError::State {
        path: "metrics.jsonl".into(),
        reason: e.to_string(),
    })?;
    Ok(text + "\n")
}

/// The lines of a `metrics.jsonl`; none where there is no file. A last line that was cut off by a
/// crash is left out.
///
/// # Errors
/// [`TrainError::Io`].
pub fn read_metrics(path: &Path) -> Result<Vec<Metric>, TrainError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(TrainError::io(path, error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(step: usize) -> Metric {
        Metric::Step {
            step,
            loss: 0.1 / step as f64,
            learning_rate: 1e-4,
            gradient_norm: 0.5,
            samples: step as u64,
            epoch: 0.5,
        }
    }

    #[test]
    fn a_resumed_file_drops_what_will_come_again_and_half_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(dir.path(), 0).unwrap();
        for step in 1..=5 {
            metrics.push(line(step)).unwrap();
        }
        let path = dir.path().join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        drop(metrics);
        let mut metrics = Metrics::open(dir.path(), 3).unwrap();
        metrics.push(line(4)).unwrap();
        assert_eq!(read_metrics(&path).unwrap(), [1, 2, 3, 4].map(line));
        metrics.draw().unwrap();
        let svg = std::fs::read_to_string(dir.path().join("loss.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }
}
