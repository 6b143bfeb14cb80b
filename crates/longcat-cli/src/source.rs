//! A given video, at the rate of what the model makes.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use longcat_video::media::{
    ReadOptions, VideoReader, frames_to_the_last, is_picture, read_last, read_video,
};
use longcat_video::{PixelFrames, RefineCondition, VideoSize};

use crate::output::Writer;
use crate::shape::cropped_for;

/// Rates this near are one: some files keep durations in hundredths of a second.
const CLOSE: f64 = 0.02;

/// Refuses what is not there where the prompt is: they are in the wrong order.
pub fn check_order(first: &Path, prompt: &str) -> Result<()> {
    if !first.exists() && Path::new(prompt).exists() {
        bail!(
            "{} is not there, and {prompt} is: the file comes first, and the prompt after it",
            first.display()
        );
    }
    Ok(())
}

/// The picture that a video begins with.
pub fn picture(path: &Path, prompt: &str) -> Result<PixelFrames> {
    check_order(path, prompt)?;
    PixelFrames::read_image(path).map_err(|error| {
        let video = || VideoReader::open(path, &ReadOptions::default()).is_ok();
        match path.is_file() && !is_picture(path) && video() {
            true => anyhow!(
                "{} is a video; `longcat continue` goes on with one",
                path.display()
            ),
            false => error.into(),
        }
    })
}

/// A video file, or a folder of pictures. It is read when frames are asked for, and only as far.
pub struct Source {
    path: PathBuf,
    options: ReadOptions,
    /// The size of its frames.
    given: VideoSize,
    /// The size that they are cropped for.
    size: Option<VideoSize>,
}

impl Source {
    /// Opens a video, whose frames are cropped for a size, if there is one.
    pub fn open(path: &Path, size: Option<VideoSize>) -> Result<Self> {
        let options = ReadOptions::default();
        let given = VideoReader::open(path, &options)?.size();
        Ok(Self {
            path: path.to_path_buf(),
            options,
            given,
            size,
        })
    }

    /// Takes a folder of pictures, which has no rate, to have so many a second.
    pub fn with_folder_fps(mut self, fps: f64) -> Self {
        self.options.folder_fps = fps;
        self
    }

    /// Width and height before it is cropped.
    pub fn given_size(&self) -> VideoSize {
        self.given
    }

    /// All frames as they are, and how many of them are a second.
    pub fn whole(&self) -> Result<(PixelFrames, f64)> {
        let video = read_video(&self.path, &self.options)?;
        let fps = video.fps();
        Ok((self.cropped(PixelFrames::from_video(video)?), fps))
    }

    /// The whole video at `fps` frames per second, from the first frame on.
    pub fn whole_at(&self, fps: f64) -> Result<PixelFrames> {
        let frames = VideoReader::open(&self.path, &self.options)?.at_rate(fps)?;
        let video = frames.collect_frames()?;
        Ok(self.cropped(PixelFrames::from_video(video)?))
    }

    /// The last `count` frames at `fps` frames per second, or as many as there are. The last is that of
    /// the video: what continues it begins there.
    pub fn last(&self, fps: f64, count: usize) -> Result<PixelFrames> {
        let video = read_last(&self.path, count.max(1), Some(fps), &self.options)?;
        Ok(self.cropped(PixelFrames::from_video(video)?))
    }

    /// What refining a continuation of `count` frames of the video, at `fps` frames per second, keeps
    /// to, as in the official demo: twice as many frames at twice the rate, if the video has that.
    pub fn condition(&self, fps: f64, count: usize) -> Result<Option<RefineCondition>> {
        let (fps, count) = (2.0 * fps, 2 * count);
        let said = VideoReader::open(&self.path, &self.options)?.fps();
        let own = match said {
            Some(own) => own,
            None => read_last(&self.path, count, None, &self.options)?.fps(),
        };
        if own < (1.0 - CLOSE) * fps {
            return Ok(None);
        }
        let pixels = self.last(fps, count)?;
        let enough = pixels.len() == count;
        Ok(enough.then_some(RefineCondition {
            pixels,
            frames: count,
        }))
    }

    /// Number of frames that [`Self::write`] writes.
    pub fn count(&self, fps: f64) -> Result<usize> {
        let mut frames = frames_to_the_last(&self.path, fps, &self.options)?;
        Ok(frames.skip_frames(usize::MAX)?)
    }

    /// Writes the whole video at `fps` frames per second, up to its last frame and in this size, frame
    /// by frame.
    pub fn write(&self, writer: &mut Writer<'_>, fps: f64, size: VideoSize) -> Result<()> {
        let frames = frames_to_the_last(&self.path, fps, &self.options)?;
        let given = frames.size();
        for frame in frames {
            let frame = PixelFrames::from_bytes(frame?, given)?;
            writer.push(&self.cropped(frame).resized(size))?;
        }
        Ok(())
    }

    fn cropped(&self, frames: PixelFrames) -> PixelFrames {
        match self.size {
            Some(size) => cropped_for(size, frames),
            None => frames,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use longcat_video::media::{VideoFrames, WriteOptions, write_video};

    /// A folder of pictures of one pixel that hold their index.
    fn source(dir: &Path, count: u8, fps: f64) -> Source {
        let path = dir.join(format!("{count}-{fps}/"));
        let data = (0..count).flat_map(|i| [i; 3]).collect();
        let frames = VideoFrames::new(VideoSize::new(1, 1), fps, data).unwrap();
        write_video(&path, &frames, &WriteOptions::default()).unwrap();
        Source::open(&path, None).unwrap().with_folder_fps(fps)
    }

    fn indices(frames: &PixelFrames) -> Vec<u8> {
        frames.frames().map(|frame| frame[0]).collect()
    }

    #[test]
    fn frames_are_taken_by_their_time() {
        let dir = tempfile::tempdir().unwrap();
        for (count, fps, from_first, to_last) in [
            (9, 60.0, &[0u8, 4][..], &[0u8, 4, 8][..]),
            (12, 30.0, &[0, 2, 4, 6, 8, 10], &[1, 3, 5, 7, 9, 11]),
            (8, 24.0, &[0, 2, 3, 5, 6], &[1, 2, 4, 5, 7]),
            (3, 7.5, &[0, 0, 1, 1, 2, 2], &[0, 0, 1, 1, 2]),
            (1, 60.0, &[0], &[0]),
        ] {
            let source = source(dir.path(), count, fps);
            let last = source.last(15.0, 9).unwrap();
            assert_eq!(indices(&last), to_last, "{fps}");
            assert_eq!(source.count(15.0).unwrap(), to_last.len(), "{fps}");
            let whole = source.whole_at(15.0).unwrap();
            assert_eq!(indices(&whole), from_first, "{fps}");
            let (whole, rate) = source.whole().unwrap();
            assert_eq!((whole.len(), rate), (usize::from(count), fps));
        }
    }

    #[test]
    fn refining_keeps_to_a_video_of_twice_the_rate() {
        let dir = tempfile::tempdir().unwrap();
        let condition = |count, fps| source(dir.path(), count, fps).condition(15.0, 5).unwrap();
        assert!(condition(40, 15.0).is_none());
        assert!(condition(9, 30.0).is_none());
        let found = condition(40, 60.0).unwrap();
        assert_eq!(found.frames, 10);
        assert_eq!(
            indices(&found.pixels),
            [21, 23, 25, 27, 29, 31, 33, 35, 37, 39]
        );
    }
}
