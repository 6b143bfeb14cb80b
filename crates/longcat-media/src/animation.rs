//! What animated GIF and WebP have in common: frames that each have a duration.

use std::path::Path;

use image::Frames;

use crate::image_file::opaque;
use crate::{MediaError, VideoFrames, VideoSize};

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

/// Collects decoded frames; the frame rate is their average.
pub(crate) fn collect(path: &Path, frames: Frames<'_>) -> Result<VideoFrames, MediaError> {
    let mut data = Vec::new();
    let mut size = None;
    let mut count = 0u32;
    let mut seconds = 0.0;
    for frame in frames {
        let frame = frame.map_err(|e| MediaError::unreadable(path, e))?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        seconds += f64::from(numerator) / f64::from(denominator) / 1000.0;
        let picture = opaque(path, frame.into_buffer().into())?;
        size = Some(VideoSize::from(picture.dimensions()));
        data.extend(picture.into_raw());
        count += 1;
    }
    let size = size.ok_or_else(|| MediaError::NoFrames {
        path: path.to_path_buf(),
    })?;
    if seconds == 0.0 {
        return Err(MediaError::unreadable(path, "its frames have no duration"));
    }
    VideoFrames::new(size, f64::from(count) / seconds, data)
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
