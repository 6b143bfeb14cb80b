//! Animated WebP: a RIFF container around frames that the `image` crate encodes without loss.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use image::codecs::webp::{WebPDecoder, WebPEncoder};
use image::{AnimationDecoder, ExtendedColorType, ImageDecoder, Limits};

use crate::animation::{self, Durations};
use crate::metadata::to_xmp;
use crate::partial::Partial;
use crate::source::Opened;
use crate::{MediaError, VideoSize, VideoSpec, VideoWriter, WriteOptions};

/// The bit of the header that announces an animation.
const ANIMATED: u8 = 0b10;
/// The bit of the header that announces a description.
const XMP: u8 = 0b100;
/// The bit of a frame that replaces what is below it.
const DO_NOT_BLEND: u8 = 0b10;

pub(crate) struct WebPWriter {
    path: PathBuf,
    partial: Partial,
    file: BufWriter<File>,
    /// Bytes after the RIFF header.
    size: u64,
    spec: VideoSpec,
    durations: Durations,
    /// XMP, which comes last.
    description: Option<String>,
}

impl WebPWriter {
    pub(crate) fn create(
        path: &Path,
        spec: VideoSpec,
        options: &WriteOptions,
    ) -> Result<Self, MediaError> {
        let [width, height] = spec.sides();
        let (partial, file) = Partial::file(path)?;
        let mut file = BufWriter::new(file);

        let mut head = b"WEBP".to_vec();
        let described = if options.metadata.is_some() { XMP } else { 0 };
        let mut features = vec![ANIMATED | described, 0, 0, 0];
        features.extend(u24(width - 1));
        features.extend(u24(height - 1));
        append_chunk(&mut head, b"VP8X", &features);
        // Background colour, then how often it repeats: 0 is for ever.
        append_chunk(&mut head, b"ANIM", &[0; 6]);
        file.write_all(b"RIFF\0\0\0\0")
            .and_then(|()| file.write_all(&head))
            .map_err(MediaError::io(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            partial,
            file,
            size: head.len() as u64,
            durations: Durations::new(1000.0, spec.fps),
            description: options.metadata.as_deref().map(to_xmp),
            spec,
        })
    }
}

impl VideoWriter for WebPWriter {
    fn push(&mut self, frame: &[u8]) -> Result<(), MediaError> {
        let [width, height] = self.spec.sides();
        let mut still = Vec::new();
        WebPEncoder::new_lossless(&mut still)
            .encode(frame, width, height, ExtendedColorType::Rgb8)
            .map_err(|e| MediaError::encode(&self.path, e))?;
        // A still without metadata: 12 bytes of RIFF header, then the chunk that is wanted.
        let picture = still
            .get(12..)
            .filter(|chunk| chunk.starts_with(b"VP8L"))
            .ok_or_else(|| MediaError::encode(&self.path, "unexpected WebP still"))?;

        let mut header = vec![0; 6]; // position
        header.extend(u24(width - 1));
        header.extend(u24(height - 1));
        header.extend(u24(self.durations.next()));
        header.push(DO_NOT_BLEND);
        let mut chunk = Vec::with_capacity(picture.len() + 24);
        append_chunk(&mut chunk, b"ANMF", &[&header, picture].concat());
        self.size += chunk.len() as u64;
        self.file
            .write_all(&chunk)
            .map_err(MediaError::io(&self.path))
    }

    fn finish(mut self: Box<Self>) -> Result<(), MediaError> {
        if let Some(description) = self.description.take() {
            let mut chunk = Vec::new();
            append_chunk(&mut chunk, b"XMP ", description.as_bytes());
            self.size += chunk.len() as u64;
            let written = self.file.write_all(&chunk);
            written.map_err(MediaError::io(&self.path))?;
        }
        let size = u32::try_from(self.size)
            .map_err(|_| MediaError::encode(&self.path, "WebP files are at most 4 GiB"))?;
        let io = |e| MediaError::io(&self.path)(e);
        self.file.seek(SeekFrom::Start(4)).map_err(io)?;
        self.file.write_all(&size.to_le_bytes()).map_err(io)?;
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_all().map_err(io)?;
        self.partial.finish()
    }
}

pub(crate) fn open_webp(path: &Path) -> Result<Opened, MediaError> {
    let damaged = |e| MediaError::unreadable(path, e);
    let file = File::open(path).map_err(MediaError::io(path))?;
    let mut decoder = WebPDecoder::new(BufReader::new(file)).map_err(damaged)?;
    if !decoder.has_animation() {
        return Err(MediaError::unreadable(
            path,
            "a single picture, not a video",
        ));
    }
    let mut limits = Limits::default();
    limits.reserve(decoder.total_bytes()).map_err(damaged)?;
    decoder.set_limits(limits).map_err(damaged)?;
    let size = VideoSize::from(decoder.dimensions());
    Ok(animation::open(path, size, decoder.into_frames()))
}

fn append_chunk(out: &mut Vec<u8>, name: &[u8; 4], payload: &[u8]) {
    out.extend(name);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
    // Chunks start at even positions.
    if payload.len() % 2 == 1 {
        out.push(0);
    }
}

fn u24(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}
