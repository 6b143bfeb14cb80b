//! Files that commands write.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use longcat_video::media::{OutputFormat, VideoSpec, VideoWriter, WriteOptions, create_video};
use longcat_video::{PixelFrames, VideoSize};
use serde::Serialize;

use crate::args::{Output, OutputFile};

/// The files of a run are known to be writable and of a known kind before any model is read.
pub fn check_output(output: &Output) -> Result<()> {
    check_output_file(&output.file)?;
    match &output.save_latents {
        Some(path) => check_writable(path, output.file.overwrite),
        None => Ok(()),
    }
}

pub fn check_output_file(output: &OutputFile) -> Result<()> {
    if !latents_only(output) {
        OutputFormat::from_path(&output.output)?;
    }
    check_writable(&output.output, output.overwrite)
}

pub fn check_writable(path: &Path, overwrite: bool) -> Result<()> {
    if path.exists() && !overwrite {
        bail!(
            "{} exists; name another file or add --overwrite (-y)",
            path.display()
        );
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        bail!("{} is not a folder; make it first", parent.display());
    }
    Ok(())
}

/// Whether the run ends at latents.
pub fn latents_only(output: &OutputFile) -> bool {
    output
        .output
        .extension()
        .is_some_and(|e| e == "safetensors")
}

/// Writes a video, clip after clip, and then tells of it.
pub struct Writer<'a> {
    output: &'a OutputFile,
    latents: Option<&'a Path>,
    fps: f64,
    started: Instant,
    file: Option<Box<dyn VideoWriter>>,
    size: VideoSize,
    frames: usize,
}

impl<'a> Writer<'a> {
    pub fn new(
        output: &'a OutputFile,
        latents: Option<&'a Path>,
        fps: f64,
        started: Instant,
    ) -> Self {
        Self {
            output,
            latents,
            fps: output.fps.unwrap_or(fps),
            started,
            file: None,
            size: VideoSize::new(0, 0),
            frames: 0,
        }
    }

    /// Writes a clip. The first one says what size the video has.
    pub fn push(&mut self, clip: &PixelFrames) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                self.size = clip.size();
                let spec = VideoSpec {
                    size: self.size,
                    fps: self.fps,
                };
                let quality = self.output.quality;
                none.insert(create_video(
                    &self.output.output,
                    spec,
                    &WriteOptions { quality },
                )?)
            }
        };
        for frame in clip.frames() {
            file.push(frame)?;
            self.frames += 1;
        }
        Ok(())
    }

    /// Ends the file and tells of it.
    pub fn finish(mut self) -> Result<()> {
        if let Some(file) = self.file.take() {
            file.finish()?;
        }
        self.report(Some((self.size, self.frames)))
    }

    /// Tells of what was written: a video, or latents alone.
    pub fn report(&self, video: Option<(VideoSize, usize)>) -> Result<()> {
        let result = Written {
            output: &self.output.output,
            latents: self.latents,
            width: video.map(|(size, _)| size.width),
            height: video.map(|(size, _)| size.height),
            frames: video.map(|(_, frames)| frames),
            fps: video.map(|_| self.fps),
            seconds: self.started.elapsed().as_secs_f64(),
        };
        if self.output.json {
            println!("{}", serde_json::to_string_pretty(&result)?);
            return Ok(());
        }
        let what = match video {
            Some((size, frames)) => {
                // Some files keep durations in milliseconds.
                let fps = (self.fps * 100.0).round() / 100.0;
                format!("{frames} frames of {size} at {fps} fps")
            }
            None => "latents".into(),
        };
        println!(
            "{}: {what}, {:.1} s",
            self.output.output.display(),
            result.seconds
        );
        Ok(())
    }
}

#[derive(Serialize)]
struct Written<'a> {
    output: &'a Path,
    latents: Option<&'a Path>,
    width: Option<usize>,
    height: Option<usize>,
    frames: Option<usize>,
    fps: Option<f64>,
    seconds: f64,
}
