//! How long the stages of a run take.

use std::time::Instant;

/// Seconds of each stage, in the order in which stages first began.
#[derive(Debug)]
pub struct StageTimes {
    started: Instant,
    stages: Vec<(String, f64)>,
    current: Option<(usize, Instant)>,
    /// In front of names: the pass that they belong to.
    pass: &'static str,
}

impl StageTimes {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            stages: Vec::new(),
            current: None,
            pass: "",
        }
    }

    /// Ends the stage before and begins this one, perhaps again.
    pub fn begin(&mut self, name: &str) {
        self.end();
        let name = format!("{}{name}", self.pass);
        let known = self.stages.iter().position(|(stage, _)| *stage == name);
        let index = known.unwrap_or_else(|| {
            self.stages.push((name, 0.0));
            self.stages.len() - 1
        });
        self.current = Some((index, Instant::now()));
    }

    /// Ends the stage.
    pub fn end(&mut self) {
        if let Some((index, since)) = self.current.take() {
            self.stages[index].1 += since.elapsed().as_secs_f64();
        }
    }

    /// Puts this in front of the names of further stages.
    pub fn pass(&mut self, name: &'static str) {
        self.pass = name;
    }

    /// Whether stages belong to a further pass, which has a name.
    pub fn in_named_pass(&self) -> bool {
        !self.pass.is_empty()
    }

    /// Names and seconds.
    pub fn stages(&self) -> impl Iterator<Item = (&str, f64)> {
        self.stages
            .iter()
            .map(|(name, seconds)| (name.as_str(), *seconds))
    }

    /// Seconds since the beginning.
    pub fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
