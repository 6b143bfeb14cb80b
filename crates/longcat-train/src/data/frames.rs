//! The frames of a clip, one by one.

use image::RgbImage;
use longcat_video::VideoSize;
use longcat_video::media::{MediaError, ReadOptions, SteadyFrames, VideoReader, read_image};

use super::{CaptionedClip, Media};

/// The frames of a clip at a rate, from its file as they are asked for.
pub(super) enum ClipFrames {
    Picture(Option<RgbImage>, VideoSize),
    AtRate(SteadyFrames),
    AsTheyAre(VideoReader),
}

impl ClipFrames {
    /// At `fps` frames per second; without it, as they are.
    pub(super) fn open(clip: &CaptionedClip, fps: Option<f64>) -> Result<Self, MediaError> {
        if clip.media == Media::Image {
            let picture = read_image(&clip.path)?;
            let size = picture.dimensions().into();
            return Ok(Self::Picture(Some(picture), size));
        }
        let reader = VideoReader::open(&clip.path, &ReadOptions::default())?;
        Ok(match fps {
            Some(fps) => Self::AtRate(reader.at_rate(fps)?),
            None => Self::AsTheyAre(reader),
        })
    }

    pub(super) fn size(&self) -> VideoSize {
        match self {
            Self::Picture(_, size) => *size,
            Self::AtRate(frames) => frames.size(),
            Self::AsTheyAre(reader) => reader.size(),
        }
    }

    /// Leaves out `count` frames, or as many as there are; how many.
    pub(super) fn skip(&mut self, count: usize) -> Result<usize, MediaError> {
        match self {
            Self::Picture(picture, _) => Ok(picture.take_if(|_| count > 0).map_or(0, |_| 1)),
            Self::AtRate(frames) => frames.skip_frames(count),
            Self::AsTheyAre(reader) => reader.skip_frames(count),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<RgbImage>, MediaError> {
        let VideoSize { width, height } = self.size();
        let pixels = match self {
            Self::Picture(picture, _) => return Ok(picture.take()),
            Self::AtRate(frames) => frames.next().transpose()?,
            Self::AsTheyAre(reader) => reader.next_frame()?.map(|frame| frame.pixels),
        };
        Ok(pixels.and_then(|pixels| RgbImage::from_raw(width as u32, height as u32, pixels)))
    }
}
