//! What animated GIF and WebP have in common: frames that each have a duration.

use std::path::{Path, PathBuf};

use image::Frames;

use crate::image_file::opaque;
use crate::source::{Opened, Source, Stored, StoredFrame};
use crate::{MediaError, VideoSize};

/// Durations of frames in whole ticks that add up to the right time, however long the video.
pub(crate) struct Durations {
    ticks_per_frame: f64,
    frames: u32,
}

impl Durations {
    pub(crate) fn new(ticks_per_second: f64, fps: f64) -> Self {
        Self {
            ticks_per_frame: ticks_per_second / fps,
            frames: 0,
        }
    }

    pub(crate) fn next(&mut self) -> u32 {
        let end = |frames: u32| (f64::from(frames) * self.ticks_per_frame).round() as u32;
        self.frames += 1;
        end(self.frames) - end(self.frames - 1)
    }
}

/// Reads decoded frames one by one. Where a frame would be shown for 10 ms or less it is shown for
/// 100, as browsers and ffmpeg do.
pub(crate) fn open(path: &Path, size: VideoSize, frames: Frames<'static>) -> Opened {
    Opened {
        source: Box::new(Animation {
            path: path.to_path_buf(),
            frames,
            milliseconds: 0.0,
        }),
        stored: Stored::rgb(size),
        fps: None,
        whole: true,
    }
}

struct Animation {
    path: PathBuf,
    frames: Frames<'static>,
    /// Start of the next frame.
    milliseconds: f64,
}

impl Source for Animation {
    fn next(&mut self) -> Result<Option<StoredFrame>, MediaError> {
        let Some(frame) = self.frames.next() else {
            return Ok(None);
        };
        let frame = frame.map_err(|e| MediaError::unreadable(&self.path, e))?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = match f64::from(numerator) / f64::from(denominator) {
            short if short <= 10.0 => 100.0,
            delay => delay,
        };
        let start = self.milliseconds;
        self.milliseconds += delay;
        Ok(Some(StoredFrame {
            start: start / 1000.0,
            duration: delay / 1000.0,
            bytes: opaque(&self.path, frame.into_buffer().into())?.into_raw(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Durations;

    #[test]
    fn rounding_does_not_accumulate() {
        let mut durations = Durations::new(100.0, 15.0);
        let all: Vec<u32> = (0..30).map(|_| durations.next()).collect();
        assert_eq!(all[..3], [7, 6, 7]);
        assert_eq!(all.iter().sum::<u32>(), 200);
    }
}
