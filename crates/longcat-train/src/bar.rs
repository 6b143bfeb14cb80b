//! Progress on a terminal.

use std::fmt::Arguments;
use std::io::{Write, stderr};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use longcat_weights::printable;

use crate::{DataSummary, StepReport, TrainError, TrainObserver};

/// A progress bar on stderr, with messages above it. Where stderr is no terminal only the messages
/// are printed, and a line every so many steps.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    /// What the bar counts at present.
    counting: String,
    plain: bool,
}

/// Steps between lines where there is no terminal.
const PLAIN_EVERY: usize = 50;

impl Default for Bar {
    fn default() -> Self {
        let bar = ProgressBar::no_length();
        Self {
            plain: bar.is_hidden(),
            bar,
            counting: String::new(),
        }
    }
}

impl Bar {
    fn count(&mut self, what: &str, done: usize, total: usize) {
        if self.counting != what {
            self.counting = what.to_string();
            let template = "{msg} {wide_bar} {pos}/{len}";
            let style = ProgressStyle::with_template(template);
            self.bar
                .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }

    /// Names of clips and what is in lists of captions come from strangers.
    fn say(&self, text: String) {
        for line in text.lines().map(printable) {
            match self.plain {
                true => print(format_args!("{line}")),
                false => self.bar.println(line),
            }
        }
    }
}

/// `eprintln!`, but a run goes on where nobody reads its messages any more.
fn print(line: Arguments<'_>) {
    let _ = writeln!(stderr(), "{line}");
}

impl TrainObserver for Bar {
    fn caching(&mut self, what: &str, done: usize, total: usize) {
        self.count(what, done, total);
        self.bar.set_message(format!("caching {what}"));
    }

    fn skipped(&mut self, problem: &TrainError) {
        self.say(format!("skipped: {problem}"));
    }

    fn data(&mut self, summary: &DataSummary) {
        self.say(summary.to_string());
    }

    fn warned(&mut self, message: &str) {
        self.say(format!("warning: {message}"));
    }

    fn resumed(&mut self, step: usize, changed: &[String]) {
        self.say(format!("resumed after step {step}"));
        if !changed.is_empty() {
            self.say(format!("changed since: {}", changed.join(", ")));
        }
    }

    fn step(&mut self, p: &StepReport) {
        let left = Duration::from_secs_f64(p.seconds_left.clamp(0.0, 1e9));
        let left = indicatif::HumanDuration(left);
        let message = format!(
            "loss {:.4} lr {:.2e} {:.2} steps/s {left:#} left",
            p.loss, p.learning_rate, p.steps_per_second
        );
        if self.plain && (p.step.is_multiple_of(PLAIN_EVERY) || p.step == p.steps) {
            print(format_args!("step {}/{} {message}", p.step, p.steps));
        }
        self.count("steps", p.step, p.steps);
        self.bar.set_message(message);
    }

    fn validated(&mut self, step: usize, loss: f64) {
        self.say(format!("step {step}: validation loss {loss:.6}"));
    }

    fn saved(&mut self, path: &Path) {
        self.say(format!("wrote {}", path.display()));
    }
}
