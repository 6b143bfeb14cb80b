//! The bundled reader: H.264 in mp4 files, without any program of the system.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;
use shiguredo_mp4::boxes::Avc1Box;

use crate::colour::{ColourSpace, Matrix, Primaries, Transfer};
use crate::h264::{append_unit, has_instant_refresh, to_annex_b};
use crate::mp4_index::{Track, needs_ffmpeg};
use crate::planar::Planar;
use crate::reader::without_rounding;
use crate::source::{Opened, Pixels, Place, Source, Stored, StoredFrame};
use crate::sps::{Signal, Sps};
use crate::{MediaError, VideoSize};

/// Opens the first video track of an mp4 file.
pub(crate) fn open_mp4(path: &Path, place: Place) -> Result<Opened, MediaError> {
    let mut file = File::open(path).map_err(MediaError::io(path))?;
    let track = Track::read(path, &mut file)?;
    let sps = track.entry.avcc_box.sps_list.first();
    let sps = sps.and_then(|unit| Sps::parse(unit)).ok_or_else(|| {
        MediaError::unreadable(path, "the description of its H.264 stream is damaged")
    })?;
    if let Some(lack) = sps.beyond_bundled() {
        return Err(needs_ffmpeg(path, lack));
    }
    let stored = Stored {
        pixels: Pixels::Planar(Planar::YUV420, colour_space(path, &track.entry, &sps)?),
        aspect: pixel_aspect(&track.entry).or(sps.aspect).unwrap_or(1.0),
        orientation: track.orientation,
        ..Stored::rgb(sps.size)
    };
    stored.check_aspect(path)?;

    let times = track.times();
    let seconds: f64 = track.samples.iter().map(|sample| sample.duration).sum();
    let fps = without_rounding(times.len() as f64 / seconds);
    let mut reader = Mp4Reader {
        path: path.to_path_buf(),
        file,
        length_size: usize::from(track.entry.avcc_box.length_size_minus_one.get()) + 1,
        decoder: new_decoder().map_err(|()| failed(path, 0))?,
        size: sps.size,
        at: 0,
        times: times.into(),
        ready: VecDeque::new(),
        flushed: false,
        packet: Vec::new(),
        given: 0,
        track,
    };
    let whole = match place {
        Place::Start => true,
        Place::BeforeEnd(seconds) => reader.skip_to(seconds)? == 0,
    };
    reader.begin_packet();
    Ok(Opened {
        source: Box::new(reader),
        stored,
        fps: Some(fps).filter(|fps| fps.is_finite()),
        whole,
    })
}

struct Mp4Reader {
    path: PathBuf,
    file: File,
    length_size: usize,
    track: Track,
    decoder: Decoder,
    size: VideoSize,
    /// The next sample to decode.
    at: usize,
    /// When the pictures that are still to come are shown, and how long.
    times: VecDeque<(f64, f64)>,
    /// Pictures that the decoder gave at its end.
    ready: VecDeque<Vec<u8>>,
    flushed: bool,
    packet: Vec<u8>,
    given: usize,
}

impl Source for Mp4Reader {
    fn next(&mut self) -> Result<Option<StoredFrame>, MediaError> {
        loop {
            let Some(bytes) = self.decode_next()? else {
                return match self.times.is_empty() {
                    true => Ok(None),
                    false => Err(MediaError::unreadable(
                        &self.path,
                        format!(
                            "{} of {} frames could be decoded",
                            self.given,
                            self.given + self.times.len()
                        ),
                    )),
                };
            };
            let Some((start, duration)) = self.times.pop_front() else {
                let reason = "it has more frames than its index says";
                return Err(MediaError::unreadable(&self.path, reason));
            };
            self.given += 1;
            let shown = &self.track.shown;
            // Half a tick of any clock in use.
            const SLACK: f64 = 1e-5;
            if start >= shown.start - SLACK && start < shown.end - SLACK {
                return Ok(Some(StoredFrame {
                    start,
                    duration,
                    bytes,
                }));
            }
        }
    }
}

impl Mp4Reader {
    /// Begins at the last key frame that lies so many seconds before the end or earlier; its number.
    fn skip_to(&mut self, seconds: f64) -> Result<usize, MediaError> {
        let shown_end = self.track.shown.end;
        let end = self.times.back().map_or(0.0, |last| last.0.min(shown_end));
        let mut from = self.track.samples.len();
        while from > 0 {
            from -= 1;
            let sample = self.track.samples[from];
            // Some players' key frames are none: pictures after them refer to pictures before.
            if sample.keyframe
                && sample.start <= end - seconds
                && has_instant_refresh(&self.sample(from)?, self.length_size)
            {
                break;
            }
        }
        let start = self.track.samples[from].start;
        self.at = from;
        self.times.retain(|time| time.0 >= start);
        Ok(from)
    }

    /// The parameter sets come first.
    fn begin_packet(&mut self) {
        let sets = &self.track.entry.avcc_box;
        for unit in sets.sps_list.iter().chain(&sets.pps_list) {
            append_unit(unit, &mut self.packet);
        }
    }

    fn sample(&mut self, number: usize) -> Result<Vec<u8>, MediaError> {
        let sample = self.track.samples[number];
        let mut bytes = vec![0; sample.bytes];
        self.file
            .seek(SeekFrom::Start(sample.offset))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(MediaError::io(&self.path))?;
        Ok(bytes)
    }

    /// The next picture in the order of display, its planes one after another.
    fn decode_next(&mut self) -> Result<Option<Vec<u8>>, MediaError> {
        while self.at < self.track.samples.len() {
            let number = self.at;
            let sample = self.sample(number)?;
            self.at += 1;
            to_annex_b(&sample, self.length_size, &mut self.packet).ok_or_else(|| {
                MediaError::unreadable(&self.path, format!("frame {number} is damaged"))
            })?;
            let picture = self.decoder.decode(&self.packet);
            let picture = picture.map_err(|_| failed(&self.path, number))?;
            let planes = picture.map(|picture| planes(&self.path, &picture, self.size));
            self.packet.clear();
            if let Some(planes) = planes {
                return planes.map(Some);
            }
        }
        // Once at the end: flushing after every picture would undo the display order.
        if !self.flushed {
            self.flushed = true;
            let rest = self.decoder.flush_remaining();
            for picture in rest.map_err(|_| failed(&self.path, self.at))? {
                let planes = planes(&self.path, &picture, self.size)?;
                self.ready.push_back(planes);
            }
        }
        Ok(self.ready.pop_front())
    }
}

fn new_decoder() -> Result<Decoder, ()> {
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    Decoder::with_api_config(OpenH264API::from_source(), config).map_err(drop)
}

/// The decoder's own error is a number that its documentation does not explain.
fn failed(path: &Path, frame: usize) -> MediaError {
    MediaError::unreadable(
        path,
        format!(
            "the bundled decoder gives up at frame {frame}: damaged, or not 8-bit 4:2:0 H.264; if other programs play the file, install ffmpeg"
        ),
    )
}

fn planes(path: &Path, picture: &DecodedYUV<'_>, size: VideoSize) -> Result<Vec<u8>, MediaError> {
    let (width, height) = picture.dimensions();
    let found = VideoSize::new(width, height);
    if found != size {
        let reason = format!("a frame has {found} pixels and the stream {size}");
        return Err(MediaError::unreadable(path, reason));
    }
    let (stride, chroma_stride, _) = picture.strides();
    let half = (size.width.div_ceil(2), size.height.div_ceil(2));
    let mut bytes = Vec::with_capacity(Planar::YUV420.bytes(size));
    for (plane, stride, (width, height)) in [
        (picture.y(), stride, (size.width, size.height)),
        (picture.u(), chroma_stride, half),
        (picture.v(), chroma_stride, half),
    ] {
        for row in plane.chunks(stride).take(height) {
            bytes.extend(&row[..width]);
        }
    }
    Ok(bytes)
}

/// What the stream says, else the `colr` box, else what is usual for its size.
fn colour_space(path: &Path, entry: &Avc1Box, sps: &Sps) -> Result<ColourSpace, MediaError> {
    let signal = sps.signal.or_else(|| container_signal(entry));
    let signal = signal.unwrap_or(Signal::UNKNOWN);
    const UNKNOWN: u8 = 2;
    let matrix = match signal.matrix {
        UNKNOWN => Matrix::guess(sps.size.width, sps.size.height),
        code => Matrix::from_code(code)
            .ok_or_else(|| needs_ffmpeg(path, &format!("it has colour matrix {code}")))?,
    };
    Ok(ColourSpace {
        matrix,
        full_range: signal.full_range,
        transfer: Transfer::from_code(signal.transfer),
        primaries: Primaries::from_code(signal.primaries),
    })
}

fn container_signal(entry: &Avc1Box) -> Option<Signal> {
    let mut boxes = entry.unknown_boxes.iter();
    let colr = boxes.find(|b| b.box_type.as_bytes() == b"colr")?;
    let (b"nclx" | b"nclc", codes) = colr.payload.split_first_chunk::<4>()? else {
        return None;
    };
    // Primaries, transfer and matrix have two bytes each; `nclc` has no range.
    Some(Signal {
        primaries: *codes.get(1)?,
        transfer: *codes.get(3)?,
        matrix: *codes.get(5)?,
        full_range: codes.get(6).is_some_and(|flags| flags & 0x80 != 0),
    })
}

/// Width of a sample over its height by the `pasp` box.
fn pixel_aspect(entry: &Avc1Box) -> Option<f64> {
    let mut boxes = entry.unknown_boxes.iter();
    let pasp = boxes.find(|b| b.box_type.as_bytes() == b"pasp")?;
    let number = |at: usize| {
        let bytes = pasp.payload.get(at..at + 4)?.try_into().ok()?;
        Some(f64::from(u32::from_be_bytes(bytes)))
    };
    Some(number(0)? / number(4)?).filter(|aspect| aspect.is_finite() && *aspect > 0.0)
}
