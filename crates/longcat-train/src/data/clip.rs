//! Reading a clip and bringing it to the shape of its bucket.

use std::path::PathBuf;

use image::imageops::FilterType;
use image::{RgbImage, imageops};
use longcat_video::{PixelFrames, VideoSize};
use serde::{Deserialize, Serialize};

use super::frames::ClipFrames;
use super::{Bucket, choose, starts};
use crate::TrainError;
use crate::config::{DataConfig, Take};

/// What kind of file a clip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// Several frames: a video file, or a folder of pictures.
    Video,
    /// One picture.
    Image,
}

/// What of a clip is given when it is trained on, instead of what `objective` would draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its first frame.
    Image,
    /// Its first `objective.continuation_latents` latent frames.
    Continuation,
}

/// A captioned file.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptionedClip {
    /// The file, or folder of pictures.
    pub path: PathBuf,
    /// What kind of file it is.
    pub media: Media,
    /// Its captions, at least one; each sample has one of them.
    pub captions: Vec<String>,
    /// How often it comes in an epoch.
    pub repeats: usize,
    /// The first-stage clip that this one refines, where refining is trained.
    pub source: Option<PathBuf>,
    /// What is always given of it.
    pub condition: Option<Condition>,
}

/// A part of a clip in the shape of its bucket.
#[derive(Debug, Clone)]
pub(crate) struct FittedClip {
    pub bucket: Bucket,
    pub frames: Vec<RgbImage>,
    /// Frames of the whole clip at the rate of the configuration, if these are all.
    pub length: Option<usize>,
}

/// Which parts are taken of a clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Windows {
    /// First frames.
    pub starts: Vec<usize>,
    /// Frames of each.
    pub frames: usize,
    /// Frames of the whole clip.
    pub length: usize,
}

/// A clip that is read from its front to its end.
pub(crate) struct ClipReader<'a> {
    clip: &'a CaptionedClip,
    data: &'a DataConfig,
    frames: ClipFrames,
    /// Frames that came.
    at: usize,
}

impl CaptionedClip {
    /// Reads the file, picks frames at the rate of the configuration and fits the first of them to one
    /// of its sizes and frame counts.
    ///
    /// # Errors
    /// [`TrainError::Media`] for a file that cannot be read, [`TrainError::Data`] for too few frames.
    pub fn fit(&self, data: &DataConfig) -> Result<PixelFrames, TrainError> {
        let fitted = self.reader(data)?.part(0, usize::MAX)?;
        Ok(PixelFrames::from_images(&fitted.frames)?)
    }

    /// The parts that are taken of a clip longer than one; all its frames are read.
    pub(crate) fn windows(&self, data: &DataConfig) -> Result<Windows, TrainError> {
        let mut frames = ClipFrames::open(self, data.fps)?;
        let length = frames.skip(usize::MAX)?;
        let frames = self.bucket(data, frames.size(), length)?.frames;
        Ok(Windows {
            starts: starts(data, frames, length),
            frames,
            length,
        })
    }

    pub(crate) fn reader<'a>(&'a self, data: &'a DataConfig) -> Result<ClipReader<'a>, TrainError> {
        Ok(ClipReader {
            clip: self,
            data,
            frames: ClipFrames::open(self, data.fps)?,
            at: 0,
        })
    }

    fn bucket(
        &self,
        data: &DataConfig,
        size: VideoSize,
        frames: usize,
    ) -> Result<Bucket, TrainError> {
        let counts = &data.frames;
        choose(&data.sizes, counts, size, frames).ok_or_else(|| TrainError::Data {
            path: self.path.clone(),
            reason: format!(
                "it has {frames} frames at this frame rate and data.frames asks for {counts:?}"
            ),
        })
    }
}

impl ClipReader<'_> {
    /// The part of at most `most` frames, and of as many as the configuration has a count for, that
    /// begins with frame `start`, which did not come yet.
    pub(crate) fn part(&mut self, start: usize, most: usize) -> Result<FittedClip, TrainError> {
        let most = self
            .data
            .frames
            .iter()
            .copied()
            .max()
            .map_or(most, |count| most.min(count));
        self.at += self.frames.skip(start - self.at)?;
        let (clip, size) = (self.clip, self.frames.size());
        // The size of a bucket does not depend on the number of frames.
        let fitted = choose(&self.data.sizes, &[0], size, 0).map_or(size, |bucket| bucket.size);
        let mut frames = Vec::new();
        while frames.len() < most
            && let Some(frame) = self.frames.next()?
        {
            frames.push(cover(&frame, fitted));
        }
        let first = self.at == 0;
        self.at += frames.len();
        // Windows may follow without a gap: where they are taken, no frame is looked at beyond.
        let alone = self.data.take == Take::Start || clip.media == Media::Image;
        let over = frames.len() < most || (alone && self.frames.skip(1)? == 0);
        let length = (first && over).then_some(frames.len());
        let bucket = clip.bucket(self.data, size, frames.len())?;
        frames.truncate(bucket.frames);
        Ok(FittedClip {
            bucket,
            frames,
            length,
        })
    }
}

/// Scales a picture so that it just covers `size` and cuts its middle out.
fn cover(image: &RgbImage, size: VideoSize) -> RgbImage {
    let (width, height) = image.dimensions();
    let (least_width, least_height) = (size.width as u32, size.height as u32);
    let scale = f64::max(
        f64::from(least_width) / f64::from(width),
        f64::from(least_height) / f64::from(height),
    );
    let side = |pixels: u32, least: u32| ((f64::from(pixels) * scale).round() as u32).max(least);
    let (w, h) = (side(width, least_width), side(height, least_height));
    let scaled = match (w, h) == (width, height) {
        true => image.clone(),
        false => imageops::resize(image, w, h, FilterType::Lanczos3),
    };
    let (x, y) = ((w - least_width) / 2, (h - least_height) / 2);
    imageops::crop_imm(&scaled, x, y, least_width, least_height).to_image()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::TrainConfig;

    #[test]
    fn parts_follow_one_another_without_a_gap_or_with_one() {
        let folder = tempfile::tempdir().unwrap();
        let clip = CaptionedClip {
            path: folder.path().to_path_buf(),
            media: Media::Video,
            captions: Vec::new(),
            repeats: 1,
            source: None,
            condition: None,
        };
        let data = |extra: &str| {
            let text = format!(
                "output = 'run'\n[data]\npath = 'clips'\nsizes = ['16x16']\nframes = [1, 5]\n{extra}"
            );
            TrainConfig::parse(&text, "run.toml".as_ref()).unwrap().data
        };
        let add = |number: u8| {
            let picture = RgbImage::from_pixel(16, 16, image::Rgb([number, 0, 0]));
            let name = format!("{number:02}.png");
            picture.save(folder.path().join(name)).unwrap();
        };
        let numbers = |fitted: &FittedClip| -> Vec<u8> {
            fitted
                .frames
                .iter()
                .map(|f| f.get_pixel(0, 0).0[0])
                .collect()
        };
        (0..10).for_each(add);
        let (start, every) = (data(""), data("take = 'every'"));
        for (length, starts) in [(10, vec![0, 5]), (11, vec![0, 6])] {
            let windows = clip.windows(&every).unwrap();
            assert_eq!((windows.frames, windows.length), (5, length));
            assert_eq!(windows.starts, starts);
            let mut reader = clip.reader(&every).unwrap();
            for first in starts {
                let part = reader.part(first, windows.frames).unwrap();
                let first = first as u8;
                assert_eq!(numbers(&part), (first..first + 5).collect::<Vec<_>>());
            }
            let part = clip.reader(&start).unwrap().part(0, usize::MAX).unwrap();
            assert_eq!((numbers(&part), part.length), (vec![0, 1, 2, 3, 4], None));
            add(10);
        }
        // Of few frames as many as there is a count for, and their number is known.
        (3..11).for_each(|number| {
            std::fs::remove_file(folder.path().join(format!("{number:02}.png"))).unwrap();
        });
        let part = clip.reader(&start).unwrap().part(0, usize::MAX).unwrap();
        assert_eq!((numbers(&part), part.length), (vec![0], Some(3)));
    }

    #[test]
    fn a_wide_picture_loses_its_sides() {
        let image = RgbImage::from_fn(40, 10, |x, _| {
            image::Rgb([if (15..25).contains(&x) { 255 } else { 0 }, 0, 0])
        });
        let size = VideoSize {
            width: 10,
            height: 10,
        };
        let cut = cover(&image, size);
        assert_eq!(cut.dimensions(), (10, 10));
        assert!(cut.pixels().all(|p| p.0[0] == 255));
    }
}
