//! Files that commands write.

use std::path::Path;

use anyhow::{Context, Result, bail};
use longcat_lora::Format;
use longcat_video::media::{
    MediaError, PlannedOutput, VideoSpec, VideoWriter, WriteOptions, check_output as check_path,
    create_video,
};
use longcat_video::{PixelFrames, VideoSize};

use crate::args::{Output, OutputFile};
use crate::preview_file;

/// A rate that every format holds, where that of the video is not known yet.
const ANY_FPS: f64 = 15.0;

/// The files of a run are known to be writable and of a known kind before any model is read.
pub fn check_output(output: &Output) -> Result<()> {
    check_output_file(&output.file).context("output")?;
    if output.preview {
        let path = preview_file::beside(&output.file.output);
        let (size, fps) = (None, ANY_FPS);
        let planned = PlannedOutput::Video { size, fps };
        check_planned(&path, output.file.overwrite, planned).context("preview")?;
    }
    match &output.save_latents {
        Some(path) => check_file(path, output.file.overwrite).context("save-latents"),
        None => Ok(()),
    }
}

fn check_planned(path: &Path, overwrite: bool, planned: PlannedOutput) -> Result<()> {
    check_writable(path, overwrite)?;
    Ok(check_path(path, planned)?)
}

pub fn check_output_file(output: &OutputFile) -> Result<()> {
    check_writable(&output.output, output.overwrite)?;
    let fps = output.fps.unwrap_or(ANY_FPS);
    if !latents_only(output) {
        return check_video(output, None, fps);
    }
    // Latents keep the rate at which their video is to play.
    if !(fps.is_finite() && fps > 0.0) {
        return Err(MediaError::FrameRate {
            path: output.output.clone(),
            fps,
            reason: "it must be positive",
        }
        .into());
    }
    Ok(check_path(&output.output, PlannedOutput::File)?)
}

/// Whether a video can be written, of this size where it is known.
pub fn check_video(output: &OutputFile, size: Option<VideoSize>, fps: f64) -> Result<()> {
    let planned = PlannedOutput::Video { size, fps };
    Ok(check_path(&output.output, planned)?)
}

fn check_writable(path: &Path, overwrite: bool) -> Result<()> {
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

/// Whether a file that is no video can be written, found out by trying.
pub fn check_file(path: &Path, overwrite: bool) -> Result<()> {
    check_planned(path, overwrite, PlannedOutput::File)
}

/// Whether a folder that is not there yet can be made.
pub fn check_new_folder(path: &Path) -> Result<()> {
    if path.exists() {
        bail!("{} exists; name another folder", path.display());
    }
    check_planned(path, false, PlannedOutput::Folder)
}

/// Whether an adapter can be written: for PEFT a folder, in which files are replaced.
pub fn check_adapter(path: &Path, format: Format, overwrite: bool) -> Result<()> {
    if format != Format::Peft {
        return check_file(path, overwrite);
    }
    check_writable(path, overwrite)?;
    check_folder(path)
}

/// Whether files can be made in a folder, which is made with those that it lies in where it is not
/// there.
pub fn check_folder(path: &Path) -> Result<()> {
    let nearest = path.ancestors().find(|folder| folder.exists());
    let file = nearest.unwrap_or(Path::new(".")).join("longcat");
    check_path(&file, PlannedOutput::File)
        .with_context(|| format!("{}: no file can be made there", path.display()))
}

/// Whether the run ends at latents.
pub fn latents_only(output: &OutputFile) -> bool {
    output
        .output
        .extension()
        .is_some_and(|e| e == "safetensors")
}

/// Writes a video, clip after clip.
pub struct Writer<'a> {
    output: &'a OutputFile,
    fps: f64,
    /// A text that the file keeps.
    metadata: Option<String>,
    file: Option<Box<dyn VideoWriter>>,
    size: VideoSize,
    frames: usize,
}

impl<'a> Writer<'a> {
    pub fn new(output: &'a OutputFile, fps: f64, metadata: Option<String>) -> Self {
        Self {
            output,
            fps,
            metadata,
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
                    &WriteOptions {
                        quality,
                        metadata: self.metadata.take(),
                    },
                )?)
            }
        };
        for frame in clip.frames() {
            file.push(frame)?;
            self.frames += 1;
        }
        Ok(())
    }

    /// Ends the file; says what it holds.
    pub fn finish(self) -> Result<Written> {
        if let Some(file) = self.file {
            file.finish()?;
        }
        Ok(Written {
            size: self.size,
            frames: self.frames,
            fps: self.fps,
        })
    }
}

/// A video that was written.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub size: VideoSize,
    pub frames: usize,
    pub fps: f64,
}
