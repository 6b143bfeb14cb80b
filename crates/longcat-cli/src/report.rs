//! What a command tells of its result.

use std::path::Path;

use anyhow::Result;
use longcat_cli::{note, printable, say};
use longcat_video::{Settings, UsedCache};
use serde::Serialize;

use crate::args::OutputFile;
use crate::output::Written;
use crate::stage_times::StageTimes;

/// A finished run.
pub struct Report<'a> {
    pub output: &'a OutputFile,
    /// The file of latents, if there is one beside the video.
    pub latents: Option<&'a Path>,
    /// The video; none where latents are all that was asked for.
    pub video: Option<Written>,
    /// What it was made with, where that is known.
    pub settings: Option<&'a Settings>,
    pub times: &'a StageTimes,
}

/// The line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    output: &'a Path,
    latents: Option<&'a Path>,
    width: Option<usize>,
    height: Option<usize>,
    frames: Option<usize>,
    fps: Option<f64>,
    seconds: f64,
    stages: Vec<Stage<'a>>,
    settings: Option<&'a Settings>,
}

#[derive(Serialize)]
struct Stage<'a> {
    stage: &'a str,
    seconds: f64,
}

impl Report<'_> {
    /// The line of `--json`.
    pub fn to_json(&self) -> Result<String> {
        let stages = self.times.stages();
        let line = Line {
            output: &self.output.output,
            latents: self.latents,
            width: self.video.map(|video| video.size.width),
            height: self.video.map(|video| video.size.height),
            frames: self.video.map(|video| video.frames),
            fps: self.video.map(|video| video.fps),
            seconds: self.times.total(),
            stages: stages
                .map(|(stage, seconds)| Stage { stage, seconds })
                .collect(),
            settings: self.settings,
        };
        Ok(serde_json::to_string(&line)?)
    }

    /// Prints it: the result on stdout, the seconds of each stage on stderr if they are asked for.
    pub fn print(&self) -> Result<()> {
        let path = &self.output.output;
        let seconds = self.times.total();
        if self.output.verbose {
            for (stage, seconds) in self.times.stages() {
                note!("{stage:20} {seconds:8.2} s");
            }
        }
        if self.output.json {
            say!("{}", self.to_json()?);
            return Ok(());
        }
        let what = match self.video {
            Some(Written { size, frames, fps }) => {
                // Some files keep durations in milliseconds.
                let fps = (fps * 100.0).round() / 100.0;
                format!("{frames} frames of {size} at {fps} fps")
            }
            None => "latents".into(),
        };
        let path = path.to_string_lossy();
        say!("{}: {what}, {seconds:.1} s", printable(&path));
        let stages = self.settings.into_iter().flat_map(|settings| {
            let refinement = settings.refinement.as_ref();
            settings.generation.iter().chain(refinement)
        });
        for cache in stages.filter_map(|stage| stage.cache.as_ref()) {
            let UsedCache {
                rule,
                saved,
                passes,
            } = cache;
            say!("--cache {rule}: {saved} of {passes} passes saved");
        }
        Ok(())
    }
}
