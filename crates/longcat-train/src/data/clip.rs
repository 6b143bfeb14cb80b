//! Reading a clip and bringing it to the shape of its bucket.

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{RgbImage, imageops};
use longcat_video::media::{ReadOptions, VideoFrames, read_image, read_video};
use longcat_video::{PixelFrames, VideoSize};
use serde::Deserialize;

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
    /// Frames of the whole clip, at the rate of the configuration.
    pub length: usize,
}

/// A clip as it is in its file, and which of its frames count.
struct Source {
    video: VideoFrames,
    picked: Vec<usize>,
    bucket: Bucket,
}

impl CaptionedClip {
    /// Reads the file, picks frames at the rate of the configuration and fits the first of them to one
    /// of its sizes and frame counts.
    ///
    /// # Errors
    /// [`TrainError::Media`] for a file that cannot be read, [`TrainError::Data`] for too few frames.
    pub fn fit(&self, data: &DataConfig) -> Result<PixelFrames, TrainError> {
        Ok(PixelFrames::from_images(&self.fitted(data, 0)?.frames)?)
    }

    /// First frames of the parts that are taken of the clip.
    pub(crate) fn starts(&self, data: &DataConfig) -> Result<Vec<usize>, TrainError> {
        if self.media == Media::Image || data.take == Take::Start {
            return Ok(vec![0]);
        }
        let Source { picked, bucket, .. } = self.source(data)?;
        Ok(starts(data, bucket.frames, picked.len()))
    }

    /// The part that begins with frame `start`, at the rate of the configuration.
    pub(crate) fn fitted(&self, data: &DataConfig, start: usize) -> Result<FittedClip, TrainError> {
        let source = self.source(data)?;
        let (size, bucket) = (source.video.size(), source.bucket);
        let all: Vec<&[u8]> = source.video.frames().collect();
        let end = (start + bucket.frames).min(source.picked.len());
        let frames = source.picked[end - bucket.frames..end]
            .iter()
            .filter_map(|i| {
                RgbImage::from_raw(size.width as u32, size.height as u32, all[*i].to_vec())
            })
            .map(|frame| cover(&frame, bucket.size))
            .collect();
        Ok(FittedClip {
            bucket,
            frames,
            length: source.picked.len(),
        })
    }

    fn source(&self, data: &DataConfig) -> Result<Source, TrainError> {
        let video = match self.media {
            Media::Video => read_video(&self.path, &ReadOptions::default())?,
            Media::Image => {
                let image = read_image(&self.path)?;
                VideoFrames::new(image.dimensions().into(), 1.0, image.into_raw())?
            }
        };
        let picked = match (self.media, data.fps) {
            (Media::Image, _) | (_, None) => (0..video.len()).collect(),
            (Media::Video, Some(fps)) => frames_at(video.len(), video.fps(), fps),
        };
        let bucket = choose(&data.sizes, &data.frames, video.size(), picked.len())
            .ok_or_else(|| too_short(&self.path, picked.len(), &data.frames))?;
        Ok(Source {
            video,
            picked,
            bucket,
        })
    }
}

fn too_short(path: &Path, frames: usize, counts: &[usize]) -> TrainError {
    TrainError::Data {
        path: path.to_path_buf(),
        reason: format!(
            "it has {frames} frames at this frame rate and data.frames asks for {counts:?}"
        ),
    }
}

/// Which frames of a clip come nearest to a steady rate of `to` frames per second.
fn frames_at(count: usize, from: f64, to: f64) -> Vec<usize> {
    let length = (count as f64 * to / from).round().max(1.0) as usize;
    (0..length)
        .map(|i| ((i as f64 * from / to).round() as usize).min(count.saturating_sub(1)))
        .collect()
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
    use super::*;

    #[test]
    fn frames_follow_the_asked_rate() {
        assert_eq!(frames_at(6, 30.0, 15.0), [0, 2, 4]);
        assert_eq!(frames_at(3, 15.0, 30.0), [0, 1, 1, 2, 2, 2]);
        assert_eq!(frames_at(4, 24.0, 24.0), [0, 1, 2, 3]);
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
