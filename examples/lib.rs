//! What the examples share: their options, and writing a video.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use longcat_builtin::builtin_checkpoint;
use longcat_runtime::{DeviceList, best_device};
use longcat_video::{PixelFrames, Sampling};

/// What every example can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1. The best device there is without it.
    #[arg(long)]
    device: Option<DeviceList>,
    /// Checkpoint directory; the small built-in one without it.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Steps, fewer than it takes for a quick look.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Folder to write to.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub output: PathBuf,
}

impl Common {
    /// The device asked for, or the best.
    pub fn devices(&self) -> DeviceList {
        self.device.clone().unwrap_or_else(|| best_device().into())
    }

    /// The checkpoint asked for, or the built-in one.
    ///
    /// # Errors
    /// When the built-in one cannot be unpacked.
    pub fn checkpoint(&self) -> Result<PathBuf> {
        match &self.model {
            Some(directory) => Ok(directory.clone()),
            None => Ok(builtin_checkpoint()?),
        }
    }

    /// The sampling settings with the number of steps asked for.
    pub fn sampling(&self, sampling: Sampling) -> Sampling {
        Sampling {
            steps: self.steps.unwrap_or(sampling.steps),
            ..sampling
        }
    }

    /// Writes a video to the output folder.
    ///
    /// # Errors
    /// What the encoder or the disk reports.
    pub fn write(&self, name: &str, video: &PixelFrames, fps: f64) -> Result<()> {
        fs::create_dir_all(&self.output)?;
        let path = self.output.join(name);
        video.write_video(&path, fps)?;
        println!(
            "{}: {} frames of {}",
            path.display(),
            video.len(),
            video.size()
        );
        Ok(())
    }
}

/// The README's program is one of them.
#[cfg(all(doctest, feature = "cpu"))]
#[doc = include_str!("../README.md")]
struct Readme;
