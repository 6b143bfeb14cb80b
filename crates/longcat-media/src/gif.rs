//! Animated GIF.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use gif::{Encoder, Extension, Frame, Repeat};
use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, ImageDecoder, Limits};

use crate::animation::{self, Durations};
use crate::partial::Partial;
use crate::source::Opened;
use crate::{MediaError, VideoSize, VideoSpec, VideoWriter, WriteOptions};

/// Quality of the palettes, from 1 (slow, best) to 30; differences above this are hard to see.
const PALETTE_SPEED: i32 = 10;

/// An animated GIF that repeats forever, with a palette for each frame.
pub(crate) struct GifWriter {
    path: PathBuf,
    partial: Partial,
    encoder: Encoder<BufWriter<File>>,
    durations: Durations,
    width: u16,
    height: u16,
}

impl GifWriter {
    pub(crate) fn create(
        path: &Path,
        spec: VideoSpec,
        options: &WriteOptions,
    ) -> Result<Self, MediaError> {
        let [width, height] = spec
            .sides()
            .map(|side| u16::try_from(side).unwrap_or(u16::MAX));
        let (partial, file) = Partial::file(path)?;
        let failed = |e| MediaError::encode(path, e);
        let mut encoder = Encoder::new(BufWriter::new(file), width, height, &[]).map_err(failed)?;
        encoder.set_repeat(Repeat::Infinite).map_err(failed)?;
        if let Some(text) = &options.metadata {
            let comment = Extension::Comment.into();
            let written = encoder.write_raw_extension(comment, &[text.as_bytes()]);
            written.map_err(failed)?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            partial,
            encoder,
            durations: Durations::new(100.0, spec.fps),
            width,
            height,
        })
    }
}

impl VideoWriter for GifWriter {
    fn push(&mut self, frame: &[u8]) -> Result<(), MediaError> {
        let mut frame = Frame::from_rgb_speed(self.width, self.height, frame, PALETTE_SPEED);
        frame.delay = u16::try_from(self.durations.next()).unwrap_or(u16::MAX);
        self.encoder
            .write_frame(&frame)
            .map_err(|e| MediaError::encode(&self.path, e))
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        let io = |e| MediaError::io(&self.path)(e);
        let mut file = self
            .encoder
            .into_inner()
            .map_err(|e| MediaError::encode(&self.path, e))?;
        file.flush().map_err(io)?;
        file.get_ref().sync_all().map_err(io)?;
        self.partial.finish()
    }
}

pub(crate) fn open_gif(path: &Path) -> Result<Opened, MediaError> {
    let damaged = |e| MediaError::unreadable(path, e);
    let file = File::open(path).map_err(MediaError::io(path))?;
    let mut decoder = GifDecoder::new(BufReader::new(file)).map_err(damaged)?;
    decoder.set_limits(Limits::default()).map_err(damaged)?;
    let size = VideoSize::from(decoder.dimensions());
    Ok(animation::open(path, size, decoder.into_frames()))
}
