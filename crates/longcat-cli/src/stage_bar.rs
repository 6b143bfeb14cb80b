//! Progress of a run on a terminal.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longcat_cli::note;
use longcat_video::{Latents, Observer, Requantized, Settings, VideoError};

use crate::finished::Finished;
use crate::merged::requantized_in_words;
use crate::preview_file::PreviewFile;
use crate::serve::Follower;
use crate::stage_times::StageTimes;

/// A progress bar for each stage on stderr, latents to a file, and Ctrl-C.
pub struct StageBar {
    bar: ProgressBar,
    interrupt: Arc<AtomicBool>,
    /// Where the next latents go.
    latents: Option<PathBuf>,
    /// What the next latents are made with.
    settings: Option<Settings>,
    /// The last latents that were finished.
    pub finished: Option<Finished>,
    pub times: StageTimes,
    /// Where previews go.
    pub previews: Option<PreviewFile>,
    /// Who is told instead of the terminal, and says when to stop instead of Ctrl-C.
    follower: Option<Follower>,
    /// Of each denoising run that may leave out passes.
    saved: Vec<Saved>,
    /// What is being made and the stage of that, where the bar is over many requests.
    request: Option<(String, &'static str)>,
}

/// Passes of a denoising run.
struct Saved {
    /// Whether it refined what another one generated.
    refines: bool,
    /// How many were left out.
    saved: usize,
    /// Of how many.
    passes: usize,
}

impl StageBar {
    pub fn new(interrupt: Arc<AtomicBool>, times: StageTimes) -> Self {
        let style = ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {eta} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bar: ProgressBar::no_length().with_style(style),
            interrupt,
            latents: None,
            settings: None,
            finished: None,
            times,
            previews: None,
            follower: None,
            saved: Vec::new(),
            request: None,
        }
    }

    /// One bar over so many requests from now on, in the place of one for each stage.
    pub fn over(&mut self, requests: usize) {
        let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {eta} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        self.request = Some((String::new(), ""));
        self.bar.reset();
        self.bar.set_style(style);
        self.bar.set_length(requests as u64);
    }

    /// Begins with another one of these requests: nothing is left of the one before.
    pub fn begin_request(&mut self, name: String) {
        self.times = StageTimes::new();
        self.finished = None;
        self.previews = None;
        self.saved.clear();
        self.request = Some((name, ""));
        self.show("");
    }

    /// Ends the bar over many requests.
    pub fn end(&mut self) {
        self.request = None;
        self.finish();
    }

    /// Requests that are done.
    pub fn done(&self, count: usize) {
        self.bar.inc(count as u64);
    }

    /// Prints something while the bar is out of the way.
    pub fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Shows how far the stage of a request is.
    fn show(&self, how_far: &str) {
        if let Some((name, stage)) = &self.request {
            self.bar.set_message(format!("{name} {stage} {how_far}"));
        }
    }

    /// Shows how many parts of the stage are done.
    fn at(&self, done: usize, total: usize) {
        match self.request {
            Some(_) => self.show(&format!("{done}/{total}")),
            None => {
                self.bar.set_length(total as u64);
                self.bar.set_position(done as u64);
            }
        }
    }

    /// From now on this one is told, and nobody else.
    pub fn follow(&mut self, follower: Follower) {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        self.interrupt = Arc::default();
        self.follower = Some(follower);
    }

    /// Keeps the next latents in a file if there is one for them, with what they were made with.
    pub fn keep_latents(&mut self, path: Option<PathBuf>, settings: Option<Settings>) {
        (self.latents, self.settings) = (path, settings);
        self.saved.clear();
    }

    /// Settings, with the passes that were left out.
    pub fn with_saved(&self, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        let refined_alone = settings.generation.is_none();
        let stages = [
            (&mut settings.generation, false),
            (&mut settings.refinement, true),
        ];
        for (stage, refines) in stages {
            if let Some(cache) = stage.as_mut().and_then(|stage| stage.cache.as_mut()) {
                let runs = self.saved.iter();
                let runs = runs.filter(|run| (run.refines || refined_alone) == refines);
                (cache.saved, cache.passes) = runs.fold((0, 0), |(saved, passes), run| {
                    (saved + run.saved, passes + run.passes)
                });
            }
        }
        settings
    }

    pub fn finish(&mut self) {
        self.times.end();
        self.previews = None;
        if self.request.is_none() {
            self.bar.finish_and_clear();
        }
    }
}

impl Observer for StageBar {
    fn stage(&mut self, name: &'static str) {
        self.times.begin(name);
        if let Some(follower) = &self.follower {
            follower.stage(name, self.times.in_named_pass());
        }
        if let Some((_, stage)) = &mut self.request {
            *stage = name;
            return self.show("");
        }
        self.bar.reset();
        self.bar.set_length(1);
        self.bar.set_prefix(name);
        self.bar.tick();
    }

    fn segment(&mut self, index: usize, total: usize, finished: bool) {
        if let Some(follower) = &self.follower {
            follower.segment(index, total, self.times.in_named_pass());
            return;
        }
        let number = index + 1;
        let text = match finished {
            true => format!("segment {number} of {total} is there already"),
            false => format!("segment {number} of {total}"),
        };
        self.bar.suspend(|| note!("{text}"));
    }

    fn step(&mut self, step: usize, total: usize, _timestep: f32) {
        if let Some(follower) = &self.follower {
            follower.step(step + 1, total);
        }
        self.at(step + 1, total);
    }

    fn wants_previews(&self) -> bool {
        let followed = self.follower.as_ref();
        self.previews.is_some() || followed.is_some_and(Follower::wants_previews)
    }

    fn preview(&mut self, _step: usize, _total: usize, latents: &Latents) {
        if let Some(previews) = &self.previews {
            previews.show(latents);
        }
        if let Some(follower) = &self.follower {
            follower.preview(latents);
        }
    }

    fn requantized(&mut self, off: &Requantized) {
        let text = requantized_in_words(off);
        self.bar.suspend(|| note!("{text}"));
    }

    fn passes_saved(&mut self, saved: usize, total: usize) {
        self.saved.push(Saved {
            refines: self.times.in_named_pass(),
            saved,
            passes: total,
        });
    }

    fn progress(&mut self, done: usize, total: usize) {
        if let Some(follower) = &self.follower {
            follower.progress(done, total);
        }
        self.at(done, total);
    }

    fn latents(&mut self, latents: &Latents) -> Result<(), VideoError> {
        // Once: a second pass, which refines, has other latents.
        let (path, settings) = (self.latents.take(), self.settings.take());
        let settings = settings.map(|settings| self.with_saved(&settings));
        if let Some(path) = &path {
            latents.write_with(path, settings.as_ref())?;
        }
        self.finished = Some(Finished {
            latents: latents.clone(),
            settings,
            path,
        });
        Ok(())
    }

    fn cancelled(&self) -> bool {
        let followed = self.follower.as_ref();
        self.interrupt.load(Ordering::SeqCst) || followed.is_some_and(Follower::cancelled)
    }
}
