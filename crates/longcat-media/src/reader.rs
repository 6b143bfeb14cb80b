//! Reading a video frame by frame, whatever its format.

use std::path::{Path, PathBuf};

use crate::source::{Opened, Place, StoredFrame};
use crate::{Decoder, MediaError, ReadOptions, VideoFrames, VideoSize, ffmpeg};
use crate::{gif::open_gif, image_folder::open_folder, mp4_reader::open_mp4, webp::open_webp};

/// A video that is read frame by frame; no more than two of them are in memory.
///
/// Frames are upright RGB of square pixels, as on an ordinary screen.
pub struct VideoReader {
    pub(crate) path: PathBuf,
    pub(crate) opened: Opened,
    /// Start of the first frame that came.
    origin: Option<f64>,
}

/// A frame and when it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedFrame {
    /// Seconds after the first frame.
    pub start: f64,
    /// Seconds for which it is shown; exact where the format keeps it, as GIF and WebP do.
    pub duration: f64,
    /// `[H, W, 3]` RGB.
    pub pixels: Vec<u8>,
}

impl VideoReader {
    /// Opens an mp4 (or any container that ffmpeg knows), an animated GIF or WebP, or a folder of
    /// pictures.
    ///
    /// # Errors
    /// [`MediaError`] names the file: absent, of a kind that is no video, or one that would need
    /// ffmpeg where it is missing.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self, MediaError> {
        Self::open_at(path, options, Place::Start)
    }

    pub(crate) fn open_at(
        path: &Path,
        options: &ReadOptions,
        place: Place,
    ) -> Result<Self, MediaError> {
        Ok(Self {
            path: path.to_path_buf(),
            opened: open(path, options, place)?,
            origin: None,
        })
    }

    /// Width and height of the frames.
    pub fn size(&self) -> VideoSize {
        self.opened.stored.shown()
    }

    /// Frames per second as the container says; `None` where only the frames will show, as in GIF
    /// and WebP.
    pub fn fps(&self) -> Option<f64> {
        self.opened.fps
    }

    /// The next frame; `None` after the last one.
    ///
    /// # Errors
    /// [`MediaError`] names the file: damaged or truncated, transparent, or with frames of several
    /// sizes.
    pub fn next_frame(&mut self) -> Result<Option<TimedFrame>, MediaError> {
        Ok(self.next_stored()?.map(|frame| TimedFrame {
            start: frame.start,
            duration: frame.duration,
            pixels: self.opened.stored.picture(&frame.bytes),
        }))
    }

    /// Leaves out `count` frames, or as many as there are, without making pictures of them; how many.
    ///
    /// # Errors
    /// As [`Self::next_frame`].
    pub fn skip_frames(&mut self, count: usize) -> Result<usize, MediaError> {
        for skipped in 0..count {
            if self.next_stored()?.is_none() {
                return Ok(skipped);
            }
        }
        Ok(count)
    }

    /// The next frame as it is stored, its start counted from the first one.
    pub(crate) fn next_stored(&mut self) -> Result<Option<StoredFrame>, MediaError> {
        let Some(mut frame) = self.opened.source.next()? else {
            return match self.origin {
                Some(_) => Ok(None),
                None => Err(self.no_frames()),
            };
        };
        frame.start -= *self.origin.get_or_insert(frame.start);
        Ok(Some(frame))
    }

    pub(crate) fn no_frames(&self) -> MediaError {
        MediaError::NoFrames {
            path: self.path.clone(),
        }
    }

    /// All frames that are left, as they are.
    pub(crate) fn read_all(mut self) -> Result<VideoFrames, MediaError> {
        let mut data = Vec::new();
        let mut pace = Pace::default();
        while let Some(frame) = self.next_frame()? {
            pace.see(frame.start, frame.duration);
            data.extend(frame.pixels);
        }
        VideoFrames::new(self.size(), pace.fps(self.fps()), data)
    }
}

/// How fast frames came.
#[derive(Default)]
pub(crate) struct Pace {
    first: Option<f64>,
    end: f64,
    count: usize,
}

impl Pace {
    pub(crate) fn see(&mut self, start: f64, duration: f64) {
        self.first.get_or_insert(start);
        self.end = start + duration;
        self.count += 1;
    }

    /// Frames per second: what the container says, if that is about what was seen.
    pub(crate) fn fps(&self, said: Option<f64>) -> f64 {
        let seconds = self.end - self.first.unwrap_or(0.0);
        if seconds <= 0.0 {
            return said.unwrap_or(1.0);
        }
        let seen = self.count as f64 / seconds;
        match said {
            // Times in milliseconds hold no rate exactly.
            Some(said) if (seen / said - 1.0).abs() < 0.01 => said,
            _ => without_rounding(seen),
        }
    }
}

/// A rate of at most three decimals that sums of times have come very near to.
pub(crate) fn without_rounding(fps: f64) -> f64 {
    let decimal = (fps * 1000.0).round() / 1000.0;
    let same = (fps / decimal - 1.0).abs() < 1e-9;
    if same { decimal } else { fps }
}

fn open(path: &Path, options: &ReadOptions, place: Place) -> Result<Opened, MediaError> {
    if path.is_dir() {
        return open_folder(path, options.folder_fps, place);
    }
    let extension = crate::read::extension(path);
    match extension.as_str() {
        "gif" => return open_gif(path),
        "webp" => return open_webp(path),
        _ => {}
    }
    let program = match &options.decoder {
        Decoder::Ffmpeg(program) => Some(ffmpeg::Program::find(program)?),
        Decoder::Auto => ffmpeg::Program::find(Path::new("ffmpeg")).ok(),
        Decoder::Bundled => None,
    };
    match program {
        Some(program) => program.open(path, place),
        None if matches!(extension.as_str(), "mp4" | "m4v" | "mov") => open_mp4(path, place),
        None => {
            std::fs::metadata(path).map_err(MediaError::io(path))?;
            Err(MediaError::NeedsFfmpeg {
                path: path.to_path_buf(),
                reason: "only mp4, GIF, WebP and folders of pictures can be read without ffmpeg"
                    .into(),
            })
        }
    }
}
