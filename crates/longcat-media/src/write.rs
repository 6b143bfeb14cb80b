//! Writing a video frame by frame, whatever its format.

use std::path::Path;

use crate::frames::frame_bytes;
use crate::gif::GifWriter;
use crate::image_folder::PngFolderWriter;
use crate::mp4_writer::Mp4Writer;
use crate::webp::WebPWriter;
use crate::{MediaError, OutputFormat, VideoFrames, VideoSize};

/// Size and speed of a video to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoSpec {
    /// Width and height.
    pub size: VideoSize,
    /// Frames per second.
    pub fps: f64,
}

/// How a video is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// For mp4: 0 (smallest) to 100 (best). The H.264 quantiser falls linearly from 42 to 6, as
    /// everywhere in the file; the default of 70 gives 17, at which the loss is hard to see. From 62 up
    /// every picture is a key frame, and nineteen more rounds of reading and writing lose less than 1 dB
    /// at 70, but for full colours with hard edges. The other formats have nothing to choose.
    pub quality: u8,
    /// A text that is kept in the file, such as a prompt with its settings;
    /// [`read_metadata`](crate::read_metadata) gives it back.
    pub metadata: Option<String>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            quality: 70,
            metadata: None,
        }
    }
}

/// A video file that grows frame by frame.
///
/// It has a temporary name until [`finish`](Self::finish); dropped before, it leaves nothing.
pub trait VideoWriter: Send {
    /// Appends a frame, `[H, W, 3]` RGB.
    ///
    /// # Errors
    /// [`MediaError::FrameBytes`] for a buffer of another size, or what the encoder or the disk
    /// reports; the file cannot be continued after that.
    fn push(&mut self, frame: &[u8]) -> Result<(), MediaError>;

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// [`MediaError::NoFrames`], or what the encoder or the disk reports.
    fn finish(self: Box<Self>) -> Result<(), MediaError>;
}

/// Starts a video file in the format that `path` asks for.
///
/// # Errors
/// [`MediaError`] names the path: unknown format, a size or frame rate that the format cannot hold
/// (mp4: even sides up to 3840 × 2160 and 1000 frames per second; GIF: at most 50, WebP 90), no
/// permission. [`check_output`](crate::check_output) finds all this without writing.
pub fn create_video(
    path: &Path,
    spec: VideoSpec,
    options: &WriteOptions,
) -> Result<Box<dyn VideoWriter>, MediaError> {
    let format = OutputFormat::from_path(path)?;
    if options.quality > 100 {
        return Err(MediaError::Quality(options.quality));
    }
    format.check_rate(path, spec.fps)?;
    format.check_size(path, spec.size)?;
    let inner: Box<dyn VideoWriter> = match format {
        OutputFormat::Mp4 => Box::new(Mp4Writer::create(path, spec, options)?),
        OutputFormat::Gif => Box::new(GifWriter::create(path, spec, options)?),
        OutputFormat::WebP => Box::new(WebPWriter::create(path, spec, options)?),
        OutputFormat::PngFolder => Box::new(PngFolderWriter::create(path, spec, options)?),
    };
    Ok(Box::new(Checked {
        inner,
        path: path.to_path_buf(),
        frame_bytes: frame_bytes(spec.size),
        frames: 0,
    }))
}

/// Writes all frames to `path` in the format that it asks for.
///
/// # Errors
/// As [`create_video`] and [`VideoWriter`].
pub fn write_video(
    path: &Path,
    video: &VideoFrames,
    options: &WriteOptions,
) -> Result<(), MediaError> {
    let spec = VideoSpec {
        size: video.size(),
        fps: video.fps(),
    };
    let mut writer = create_video(path, spec, options)?;
    for frame in video.frames() {
        writer.push(frame)?;
    }
    writer.finish()
}

/// What all formats have in common: frames of the right size, and at least one.
struct Checked {
    inner: Box<dyn VideoWriter>,
    path: std::path::PathBuf,
    frame_bytes: usize,
    frames: usize,
}

impl VideoWriter for Checked {
    fn push(&mut self, frame: &[u8]) -> Result<(), MediaError> {
        if frame.len() != self.frame_bytes {
            return Err(MediaError::FrameBytes {
                expected: self.frame_bytes,
                found: frame.len(),
            });
        }
        self.frames += 1;
        self.inner.push(frame)
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        if self.frames == 0 {
            return Err(MediaError::NoFrames { path: self.path });
        }
        self.inner.finish()
    }
}

impl VideoSpec {
    /// Width and height; what a format cannot hold was refused.
    pub(crate) fn sides(&self) -> [u32; 2] {
        [self.size.width, self.size.height].map(|side| u32::try_from(side).unwrap_or(u32::MAX))
    }
}
