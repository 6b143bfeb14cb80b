//! The data set of moving shapes as files that the trainer reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use longcat_shapes::{Clip, Dataset, DatasetOptions, Raster, Sample, Shape, Split};
use longcat_video::media::{VideoFrames, WriteOptions, write_video};
use rayon::prelude::*;
use serde_json::json;

/// Share of clips whose objects move as slowly as in clips of twice the length: a clip that
/// continues another begins where objects have gone part of their way.
const SLOW: u64 = 5;
/// Latent frames of a refined clip are a multiple of this.
const REFINED_LATENTS: usize = 4;

/// `cargo xtask make-shapes`.
#[derive(Debug, Args)]
pub struct MakeShapes {
    /// Where to write clips and `metadata.jsonl`.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// How many clips.
    #[arg(long)]
    count: usize,
    /// Seed of scenes and captions.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pixels per side.
    #[arg(long, default_value_t = 64)]
    side: usize,
    /// Frames per clip, 4n + 1.
    #[arg(long, default_value_t = 17)]
    frames: usize,
    /// Combinations of shape, colour and motion: those to train on, or the others.
    #[arg(long, value_enum, default_value_t = SplitArg::Train)]
    split: SplitArg,
    /// Half of the clips show hearts, which the usual data set does not have.
    #[arg(long)]
    heart: bool,
    /// Clips of twice the size and frames, each with the usual one as the `source` to refine.
    #[arg(long)]
    refined: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SplitArg {
    Train,
    HeldOut,
}

impl MakeShapes {
    /// Draws and writes the clips, by all processors.
    pub fn run(&self) -> Result<()> {
        ensure!(self.frames % 4 == 1, "--frames must be 4n + 1");
        fs::create_dir_all(&self.output)
            .with_context(|| format!("making {}", self.output.display()))?;
        let raster = Raster {
            side: self.side,
            frames: self.frames,
            ..Raster::default()
        };
        let done = AtomicUsize::new(0);
        let lines: Result<Vec<String>> = (0..self.count)
            .into_par_iter()
            .map(|index| {
                let line = self.write(index, &raster)?;
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if done.is_multiple_of(1000) {
                    eprintln!("{done} of {} clips", self.count);
                }
                Ok(line)
            })
            .collect();
        let list = self.output.join("metadata.jsonl");
        fs::write(&list, lines?.concat()).with_context(|| list.display().to_string())?;
        println!("{}", list.display());
        Ok(())
    }

    fn sample(&self, index: u64, raster: &Raster) -> Sample {
        let split = match self.split {
            SplitArg::Train => Split::Train,
            SplitArg::HeldOut => Split::HeldOut,
        };
        let mut options = DatasetOptions {
            seconds: raster.seconds(),
            ..DatasetOptions::default()
        };
        if index.is_multiple_of(SLOW) {
            options.seconds *= 2.0;
        }
        if self.heart && index % 2 == 1 {
            options.shapes = vec![Shape::Heart];
            options.two_objects = 0.0;
        }
        Dataset::new(self.seed, split, options).get(index)
    }

    /// Writes a clip and gives its line of the list.
    fn write(&self, index: usize, raster: &Raster) -> Result<String> {
        let sample = self.sample(index as u64, raster);
        let name = format!("{index:06}.webp");
        let clip = sample.render(raster);
        let line = match self.refined {
            false => {
                write(&self.output.join(&name), &clip, raster.fps)?;
                json!({"path": name, "caption": sample.caption})
            }
            true => {
                let source = format!("{index:06}-source.webp");
                write(&self.output.join(&source), &clip, raster.fps)?;
                let refined = padded(sample.render(&raster.refined()))?;
                write(&self.output.join(&name), &refined, raster.refined().fps)?;
                json!({"path": name, "caption": sample.caption, "source": source})
            }
        };
        Ok(format!("{line}\n"))
    }
}

/// With its last frame repeated until it fills the latents that refining works on.
fn padded(clip: Clip) -> Result<Clip> {
    let [frames, height, width] = clip.shape();
    let latents = frames.div_ceil(4).next_multiple_of(REFINED_LATENTS);
    let mut data = clip.into_data();
    let last = data[data.len() - 3 * height * width..].to_vec();
    for _ in frames..4 * latents - 3 {
        data.extend_from_slice(&last);
    }
    Ok(Clip::new(width, height, data)?)
}

fn write(path: &Path, clip: &Clip, fps: f64) -> Result<()> {
    let (width, height) = (clip.width() as u32, clip.height() as u32);
    let video = VideoFrames::new(width, height, fps, clip.data().to_vec())?;
    Ok(write_video(path, &video, &WriteOptions::default())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refined_clips_are_padded_to_what_the_pipeline_makes() {
        let raster = Raster::default();
        let dataset = Dataset::new(0, Split::Train, DatasetOptions::default());
        let clip = dataset.get(0).render(&raster.refined());
        let [frames, ..] = clip.shape();
        let padded = padded(clip.clone()).unwrap();
        // 34 frames are 9 latents, 12 with padding, which hold 45 frames.
        assert_eq!((frames, padded.shape()[0]), (34, 45));
        let last = clip.frames().last().unwrap();
        assert!(padded.frames().skip(frames).all(|frame| frame == last));
        assert!(padded.frames().zip(clip.frames()).all(|(a, b)| a == b));
    }
}
