//! Frames at a steady rate, by time, from a video of any rate.

use std::path::Path;

use crate::reader::Pace;
use crate::source::{Place, StoredFrame};
use crate::{MediaError, ReadOptions, VideoFrames, VideoReader, VideoSize};

/// Times that differ by less than this are the same, in seconds.
const SAME: f64 = 1e-6;

/// Frames at a steady rate.
///
/// Each shows the frame of the video that begins nearest to its time, if one begins within half a
/// period, else the one that is on the screen then: going down in rate picks frames, going up repeats
/// them, and a frame that is shown for long comes as often as it lasts.
pub struct SteadyFrames {
    reader: VideoReader,
    /// Time of the first frame of the result, on the clock of the reader.
    first: f64,
    fps: f64,
    /// How many have come, and will come at most.
    given: usize,
    most: Option<usize>,
    current: Option<StoredFrame>,
    next: Option<StoredFrame>,
}

impl VideoReader {
    /// The frames from here on at `fps` frames per second.
    ///
    /// # Errors
    /// [`MediaError::FrameRate`] unless the rate is positive.
    pub fn at_rate(self, fps: f64) -> Result<SteadyFrames, MediaError> {
        SteadyFrames::new(self, fps, 0.0, None)
    }
}

impl SteadyFrames {
    fn new(
        reader: VideoReader,
        fps: f64,
        first: f64,
        most: Option<usize>,
    ) -> Result<Self, MediaError> {
        check_rate(&reader.path, fps)?;
        Ok(Self {
            reader,
            first,
            fps,
            given: 0,
            most,
            current: None,
            next: None,
        })
    }

    /// Width and height of the frames.
    pub fn size(&self) -> VideoSize {
        self.reader.size()
    }

    /// Frames per second.
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// Moves to the frame for time `at`; `None` when the video is over by then.
    fn seek(&mut self, at: f64) -> Result<Option<&StoredFrame>, MediaError> {
        if self.current.is_none() {
            self.current = self.reader.next_stored()?;
            self.next = self.reader.next_stored()?;
        }
        let half = 0.5 / self.fps + SAME;
        while let (Some(current), Some(next)) = (&self.current, &self.next) {
            let ahead = next.start - at;
            if ahead > SAME && (ahead > half || ahead > at - current.start + SAME) {
                break;
            }
            self.current = self.next.take();
            self.next = self.reader.next_stored()?;
        }
        Ok(self.current.as_ref().filter(|current| {
            // A rest of half a period or more at the end is a frame.
            let left = current.start + current.duration - at + 2.0 * SAME;
            self.most.is_some() || self.next.is_some() || self.given == 0 || left >= half
        }))
    }

    /// Goes to the next frame of the result; whether there is one.
    fn advance(&mut self) -> Result<bool, MediaError> {
        if self.most.is_some_and(|most| self.given >= most) {
            return Ok(false);
        }
        let at = self.first + self.given as f64 / self.fps;
        let found = self.seek(at)?.is_some();
        self.given += 1;
        if !found {
            self.most = Some(0);
        }
        Ok(found)
    }

    /// Leaves out `count` frames, or as many as there are, without making pictures of them; how many.
    ///
    /// # Errors
    /// As [`VideoReader::next_frame`].
    pub fn skip_frames(&mut self, count: usize) -> Result<usize, MediaError> {
        for skipped in 0..count {
            if !self.advance()? {
                return Ok(skipped);
            }
        }
        Ok(count)
    }

    fn frame(&mut self) -> Result<Option<Vec<u8>>, MediaError> {
        if !self.advance()? {
            return Ok(None);
        }
        let stored = &self.reader.opened.stored;
        let frame = self.current.as_ref();
        Ok(frame.map(|frame| stored.picture(&frame.bytes)))
    }

    /// Collects the frames.
    ///
    /// # Errors
    /// As of the first frame that cannot be read.
    pub fn collect_frames(self) -> Result<VideoFrames, MediaError> {
        let (size, fps) = (self.size(), self.fps);
        let mut data = Vec::new();
        for frame in self {
            data.extend(frame?);
        }
        VideoFrames::new(size, fps, data)
    }
}

impl Iterator for SteadyFrames {
    type Item = Result<Vec<u8>, MediaError>;

    /// The next frame, `[H, W, 3]` RGB.
    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.frame().transpose();
        if let Some(Err(_)) = frame {
            self.most = Some(0);
        }
        frame
    }
}

/// Reads the last `count` frames (all, if there are fewer) at `fps` frames per second, or as they are.
///
/// Only the end of the file is decoded, where its format allows it. At a given rate the last frame of
/// the result is the last of the video, and the others lie before it.
///
/// # Errors
/// As [`VideoReader`]; [`MediaError::FrameRate`] unless the rate is positive.
pub fn read_last(
    path: &Path,
    count: usize,
    fps: Option<f64>,
    options: &ReadOptions,
) -> Result<VideoFrames, MediaError> {
    let rate = match fps {
        Some(fps) => check_rate(path, fps)?,
        None => VideoReader::open(path, options)?.fps().unwrap_or(1.0),
    };
    let seconds = count as f64 / rate;
    // Some more, for frames that lie beside the times and for sound that goes on after the picture.
    let mut place = Place::BeforeEnd(1.25 * seconds + 0.5);
    for _ in 0..3 {
        // Some files can be read from the start only.
        if let Ok(Some(frames)) = end_of(path, count, fps, options, place) {
            return Ok(frames);
        }
        if let Place::BeforeEnd(before) = place {
            place = Place::BeforeEnd(4.0 * before);
        }
    }
    let frames = end_of(path, count, fps, options, Place::Start)?;
    frames.ok_or_else(|| MediaError::NoFrames {
        path: path.to_path_buf(),
    })
}

/// The whole video at `fps` frames per second, such that its last frame is the last of the result: the
/// frames before those of [`read_last`], and those.
///
/// The file is decoded once more for its times.
///
/// # Errors
/// As [`read_last`].
pub fn frames_to_the_last(
    path: &Path,
    fps: f64,
    options: &ReadOptions,
) -> Result<SteadyFrames, MediaError> {
    check_rate(path, fps)?;
    let times = Times::of(VideoReader::open(path, options)?)?;
    let before = times.before_the_last(fps);
    let (first, count) = (times.last() - before as f64 / fps, 1 + before);
    SteadyFrames::new(VideoReader::open(path, options)?, fps, first, Some(count))
}

/// The last frames of what comes from a place on; `None` if that is too little.
fn end_of(
    path: &Path,
    count: usize,
    fps: Option<f64>,
    options: &ReadOptions,
    place: Place,
) -> Result<Option<VideoFrames>, MediaError> {
    let reader = VideoReader::open_at(path, options, place)?;
    let (whole, said) = (reader.opened.whole, reader.fps());
    let times = Times::of(reader)?;
    let reader = VideoReader::open_at(path, options, place)?;
    match fps {
        Some(fps) => {
            let before = times.before_the_last(fps);
            if !whole && before < count {
                return Ok(None);
            }
            let count = count.min(1 + before);
            let first = times.last() - (count.max(1) - 1) as f64 / fps;
            let frames = SteadyFrames::new(reader, fps, first, Some(count))?;
            Ok(Some(frames.collect_frames()?))
        }
        None if !whole && times.starts.len() <= count => Ok(None),
        None => {
            let skip = times.starts.len().saturating_sub(count);
            let fps = times.pace.fps(said);
            times.read(reader, skip, fps).map(Some)
        }
    }
}

/// When the frames of a video are shown.
struct Times {
    starts: Vec<f64>,
    pace: Pace,
}

impl Times {
    fn of(mut reader: VideoReader) -> Result<Self, MediaError> {
        let mut times = Self {
            starts: Vec::new(),
            pace: Pace::default(),
        };
        while let Some(frame) = reader.next_stored()? {
            times.starts.push(frame.start);
            times.pace.see(frame.start, frame.duration);
        }
        Ok(times)
    }

    /// A reader without frames gives an error before this.
    fn first(&self) -> f64 {
        self.starts.first().copied().unwrap_or_default()
    }

    fn last(&self) -> f64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// How many frames at a rate there are before the last one.
    fn before_the_last(&self, fps: f64) -> usize {
        // Containers round times to milliseconds and more.
        const ROUNDING: f64 = 0.1;
        ((self.last() - self.first()) * fps + ROUNDING) as usize
    }

    /// The frames from number `skip` on.
    fn read(
        &self,
        mut reader: VideoReader,
        skip: usize,
        fps: f64,
    ) -> Result<VideoFrames, MediaError> {
        let mut data = Vec::new();
        for number in 0..self.starts.len() {
            let frame = reader.next_stored()?.ok_or_else(|| reader.no_frames())?;
            if number >= skip {
                data.extend(reader.opened.stored.picture(&frame.bytes));
            }
        }
        VideoFrames::new(reader.size(), fps, data)
    }
}

fn check_rate(path: &Path, fps: f64) -> Result<f64, MediaError> {
    if fps.is_finite() && fps > 0.0 {
        return Ok(fps);
    }
    Err(MediaError::FrameRate {
        path: path.to_path_buf(),
        fps,
        reason: "it must be positive",
    })
}
