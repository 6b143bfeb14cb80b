//! The data set of moving shapes as files that the trainer reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use longcat_miniature::{
    DatasetOptions, Motion, Object, Raster, RenderedClip, Sample, Shape, ShapesDataset, Split,
};
use longcat_video::media::{VideoFrames, VideoSize, WriteOptions, write_video};
use rayon::prelude::*;
use serde_json::json;

/// Share of clips whose objects move as slowly as in clips of twice the length: a clip that
/// continues another begins where objects have gone part of their way.
const SLOW: u64 = 5;
/// The latest moment, in seconds, at which a clip of `--later` begins: a turn of the slowest rotation.
const LATEST: f64 = 6.0;
/// Frames of such a clip that a model is given, bent out of shape: from its own frames, which are not
/// perfect, it is to go on with the shape that the caption names. Two latent frames.
const GIVEN: usize = 5;
/// Latent frames of a refined clip are a multiple of this.
const REFINED_LATENTS: usize = 4;

/// `miniature make-shapes`.
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
    /// Share of the easy clips that is kept: those of steady, growing and shrinking objects. A model
    /// learns the others later.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    easy: f64,
    /// Share of the clips of bouncing objects that is kept, where none rotates: shapes that rotate are
    /// learnt last.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    bouncing: f64,
    /// Share of the clips of bouncing and rotating objects that begin at any moment of their motion,
    /// not at its start, with outlines bent out of shape in the first five frames. The list says that
    /// they are for training continuation only.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    later: f64,
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
        let shares = [
            ("--easy", self.easy),
            ("--bouncing", self.bouncing),
            ("--later", self.later),
        ];
        for (name, share) in shares {
            ensure!((0.0..=1.0).contains(&share), "{name} is a share, 0 to 1");
        }
        ensure!(
            !self.refined || self.later == 0.0,
            "--refined clips begin at the start; leave --later out"
        );
        fs::create_dir_all(&self.output)
            .with_context(|| format!("making {}", self.output.display()))?;
        let raster = Raster {
            side: self.side,
            frames: self.frames,
            ..Raster::default()
        };
        let done = AtomicUsize::new(0);
        let lines: Result<Vec<String>> = self
            .samples(&raster)
            .par_iter()
            .enumerate()
            .map(|(index, sample)| {
                let line = match self.is_later(index, sample) {
                    true => self.write_later(index, sample, &raster)?,
                    false => self.write(index, sample, &raster)?,
                };
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

    /// The clips to write. Of the easy and of the bouncing ones, those are left out at which the wanted
    /// share of them does not reach the next whole number.
    fn samples(&self, raster: &Raster) -> Vec<Sample> {
        let (mut easy, mut bouncing) = (0, 0);
        let kept = |sample: &Sample| {
            let (seen, share) = if has(sample, Motion::Rotating) {
                return true;
            } else if has(sample, Motion::Bouncing) {
                (&mut bouncing, self.bouncing)
            } else {
                (&mut easy, self.easy)
            };
            *seen += 1;
            is_chosen(*seen, share)
        };
        let drawn = (0..).map(|index| self.sample(index, raster));
        drawn.filter(kept).take(self.count).collect()
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
        ShapesDataset::new(self.seed, split, options).get(index)
    }

    /// Whether a clip begins later than its scene. Only what stays in the frame can.
    fn is_later(&self, index: usize, sample: &Sample) -> bool {
        sample.scene.objects.iter().all(is_hard) && is_chosen(index as u64 + 1, self.later)
    }

    /// Writes a clip that begins later, and gives its line of the list.
    fn write_later(&self, index: usize, sample: &Sample, raster: &Raster) -> Result<String> {
        let name = format!("{index:06}.webp");
        // Multiples of the golden ratio fill the time evenly.
        let seconds = (index as f64 * 0.618_033_988_75).fract() * LATEST;
        let scene = sample.scene.clone().later(seconds);
        let clip = scene.render_dented(raster, GIVEN, self.seed ^ index as u64);
        write(&self.output.join(&name), &clip, raster.fps)?;
        let line = json!({"path": name, "caption": sample.caption, "condition": "continuation"});
        Ok(format!("{line}\n"))
    }

    /// Writes a clip and gives its line of the list.
    fn write(&self, index: usize, sample: &Sample, raster: &Raster) -> Result<String> {
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

/// Whether an object of the scene moves so.
fn has(sample: &Sample, motion: Motion) -> bool {
    sample.scene.objects.iter().any(|o| o.motion == motion)
}

/// Whether a model learns it late: outlines that turn, and positions that change their direction.
fn is_hard(object: &Object) -> bool {
    matches!(object.motion, Motion::Bouncing | Motion::Rotating)
}

/// Whether the `number`th of many, from 1, is among those that make up `share` of them.
fn is_chosen(number: u64, share: f64) -> bool {
    (number as f64 * share).floor() > ((number - 1) as f64 * share).floor()
}

/// With its last frame repeated until it fills the latents that refining works on.
fn padded(clip: RenderedClip) -> Result<RenderedClip> {
    let [frames, height, width] = clip.shape();
    let latents = frames.div_ceil(4).next_multiple_of(REFINED_LATENTS);
    let mut data = clip.into_data();
    let last = data[data.len() - 3 * height * width..].to_vec();
    for _ in frames..4 * latents - 3 {
        data.extend_from_slice(&last);
    }
    Ok(RenderedClip::new(width, height, data)?)
}

fn write(path: &Path, clip: &RenderedClip, fps: f64) -> Result<()> {
    let size = VideoSize::new(clip.width(), clip.height());
    let video = VideoFrames::new(size, fps, clip.data().to_vec())?;
    Ok(write_video(path, &video, &WriteOptions::default())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refined_clips_are_padded_to_what_the_pipeline_makes() {
        let raster = Raster::default();
        let dataset = ShapesDataset::new(0, Split::Train, DatasetOptions::default());
        let clip = dataset.get(0).render(&raster.refined());
        let [frames, ..] = clip.shape();
        let padded = padded(clip.clone()).unwrap();
        // 34 frames are 9 latents, 12 with padding, which hold 45 frames.
        assert_eq!((frames, padded.shape()[0]), (34, 45));
        let last = clip.frames().last().unwrap();
        assert!(padded.frames().skip(frames).all(|frame| frame == last));
        assert!(padded.frames().zip(clip.frames()).all(|(a, b)| a == b));
    }

    #[test]
    fn easy_and_bouncing_clips_are_thinned_out() {
        let arguments = |easy, bouncing| MakeShapes {
            output: PathBuf::new(),
            count: 300,
            seed: 5,
            side: 64,
            frames: 17,
            split: SplitArg::Train,
            heart: false,
            easy,
            bouncing,
            later: 0.0,
            refined: false,
        };
        let raster = Raster::default();
        let [all, some, none] = [1.0, 0.25, 0.0].map(|easy| arguments(easy, 1.0).samples(&raster));
        let is_hard = |sample: &&Sample| sample.scene.objects.iter().any(is_hard);
        let hard = |samples: &[Sample]| samples.iter().filter(is_hard).count();
        assert_eq!([all.len(), some.len(), none.len()], [300; 3]);
        assert_eq!(hard(&none), 300);
        // Odds of hard to easy ones are four times as high.
        let odds = |samples: &[Sample]| hard(samples) as f64 / (300 - hard(samples)) as f64;
        let ratio = odds(&some) / odds(&all);
        assert!((3.0..5.5).contains(&ratio), "{ratio}");
        let rotates = |sample: &Sample| has(sample, Motion::Rotating);
        assert!(arguments(0.0, 0.0).samples(&raster).iter().all(rotates));
    }
}
