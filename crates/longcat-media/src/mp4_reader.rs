//! The bundled reader: H.264 in mp4 files, without any program of the system.

use std::ops::Range;
use std::path::Path;

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;
use shiguredo_mp4::boxes::{Avc1Box, SampleEntry};
use shiguredo_mp4::demux::{DemuxError, Input, Mp4FileDemuxer, Mp4FileKind, Mp4FileKindDetector};
use shiguredo_mp4::{ErrorKind, TrackKind};

use crate::colour::{ColourSpace, Matrix, PlaneRef};
use crate::h264::{append_unit, to_annex_b};
use crate::sps::{SignalType, signal_type};
use crate::{MediaError, VideoFrames, VideoSize};

/// Reads the first video track of an mp4 file.
pub(crate) fn read_mp4(path: &Path) -> Result<VideoFrames, MediaError> {
    let file = std::fs::read(path).map_err(MediaError::io(path))?;
    let (track, fps) = find_track(path, &file)?;
    let mut frames = Frames {
        path,
        space: colour_space(path, &track.entry)?,
        size: None,
        data: Vec::new(),
        count: 0,
    };
    // The decoder's own error is a number that its documentation does not explain.
    let failed = |i: usize| {
        MediaError::unreadable(
            path,
            format!(
                "the bundled decoder gives up at frame {i}: damaged, or not 8-bit 4:2:0 H.264; if other programs play the file, install ffmpeg"
            ),
        )
    };
    // Flushed once at the end: flushing after every picture would undo the display order.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    let mut decoder =
        Decoder::with_api_config(OpenH264API::from_source(), config).map_err(|_| failed(0))?;
    let mut packet = Vec::new();
    let sets = track.entry.avcc_box.sps_list.iter();
    for unit in sets.chain(&track.entry.avcc_box.pps_list) {
        append_unit(unit, &mut packet);
    }
    let length_size = usize::from(track.entry.avcc_box.length_size_minus_one.get()) + 1;
    for (i, range) in track.samples.iter().enumerate() {
        let picture = &file[range.clone()];
        to_annex_b(picture, length_size, &mut packet)
            .ok_or_else(|| MediaError::unreadable(path, format!("frame {i} is damaged")))?;
        if let Some(picture) = decoder.decode(&packet).map_err(|_| failed(i))? {
            frames.append(&picture)?;
        }
        packet.clear();
    }
    for picture in decoder
        .flush_remaining()
        .map_err(|_| failed(track.samples.len()))?
    {
        frames.append(&picture)?;
    }
    if frames.count != track.samples.len() {
        return Err(MediaError::unreadable(
            path,
            format!(
                "{} of {} frames could be decoded",
                frames.count,
                track.samples.len()
            ),
        ));
    }
    let size = frames.size.ok_or_else(|| MediaError::NoFrames {
        path: path.to_path_buf(),
    })?;
    VideoFrames::new(size, fps, frames.data)
}

struct Track {
    entry: Avc1Box,
    /// Where the pictures lie in the file.
    samples: Vec<Range<usize>>,
}

/// The first video track and its frame rate.
fn find_track(path: &Path, file: &[u8]) -> Result<(Track, f64), MediaError> {
    let damaged = |e: DemuxError| {
        let reason = match e {
            DemuxError::DecodeError(e) if e.kind == ErrorKind::InvalidInput => {
                "truncated, or not an mp4 file".to_string()
            }
            DemuxError::DecodeError(e) => format!("not a valid mp4 file ({})", e.reason),
            other => format!("not a valid mp4 file ({other})"),
        };
        MediaError::unreadable(path, reason)
    };
    let input = Input {
        position: 0,
        data: file,
    };
    let mut detector = Mp4FileKindDetector::new();
    while detector.required_input().is_some() {
        detector.handle_input(input);
    }
    if let Mp4FileKind::FragmentedMp4 = detector
        .file_kind()
        .map_err(damaged)?
        .ok_or_else(|| MediaError::unreadable(path, "truncated, or not an mp4 file"))?
    {
        return Err(needs_ffmpeg(path, "it is a fragmented mp4"));
    }
    let mut demuxer = Mp4FileDemuxer::new();
    while demuxer.required_input().is_some() {
        demuxer.handle_input(input);
    }
    let info = demuxer
        .tracks()
        .map_err(damaged)?
        .iter()
        .find(|track| track.kind == TrackKind::Video)
        .cloned()
        .ok_or_else(|| MediaError::unreadable(path, "it has no video track"))?;

    let mut entry = None;
    let mut samples = Vec::new();
    let mut duration = 0u64;
    while let Some(sample) = demuxer.next_sample().map_err(damaged)? {
        if sample.track.track_id != info.track_id {
            continue;
        }
        match (sample.sample_entry, &entry) {
            (Some(SampleEntry::Avc1(avc1)), None) => entry = Some(avc1.clone()),
            (Some(SampleEntry::Avc1(_)), Some(_)) => {
                return Err(needs_ffmpeg(path, "its format changes within the track"));
            }
            (Some(_), _) => return Err(needs_ffmpeg(path, "its codec is not H.264")),
            (None, _) => {}
        }
        let start = usize::try_from(sample.data_offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(sample.data_size);
        if sample.data_size == 0 || end > file.len() {
            return Err(MediaError::unreadable(
                path,
                format!("truncated: frame {} lies beyond its end", samples.len()),
            ));
        }
        samples.push(start..end);
        duration += u64::from(sample.duration);
    }
    let entry = entry.ok_or_else(|| MediaError::NoFrames {
        path: path.to_path_buf(),
    })?;
    if duration == 0 {
        return Err(MediaError::unreadable(path, "its frames have no duration"));
    }
    let fps = samples.len() as f64 * f64::from(info.timescale.get()) / duration as f64;
    Ok((Track { entry, samples }, fps))
}

/// What the stream says, else the `colr` box, else BT.601 in limited range, which ffmpeg assumes as
/// well.
fn colour_space(path: &Path, entry: &Avc1Box) -> Result<ColourSpace, MediaError> {
    let stream = entry
        .avcc_box
        .sps_list
        .first()
        .and_then(|sps| signal_type(sps));
    let signal = stream
        .or_else(|| container_signal_type(entry))
        .unwrap_or(SignalType {
            matrix: 2,
            full_range: false,
        });
    let matrix = match signal.matrix {
        1 => Matrix::Bt709,
        2 | 5 | 6 => Matrix::Bt601,
        code => {
            return Err(needs_ffmpeg(path, &format!("it has colour matrix {code}")));
        }
    };
    Ok(ColourSpace {
        matrix,
        full_range: signal.full_range,
    })
}

fn container_signal_type(entry: &Avc1Box) -> Option<SignalType> {
    let mut boxes = entry.unknown_boxes.iter();
    let colr = boxes.find(|b| b.box_type.as_bytes() == b"colr")?;
    let (b"nclx" | b"nclc", codes) = colr.payload.split_first_chunk::<4>()? else {
        return None;
    };
    // Primaries, transfer and matrix have two bytes each; `nclc` has no range.
    Some(SignalType {
        matrix: *codes.get(5)?,
        full_range: codes.get(6).is_some_and(|flags| flags & 0x80 != 0),
    })
}

fn needs_ffmpeg(path: &Path, reason: &str) -> MediaError {
    MediaError::NeedsFfmpeg {
        path: path.to_path_buf(),
        reason: format!("{reason}, which the bundled reader cannot read"),
    }
}

/// Decoded frames as they come.
struct Frames<'a> {
    path: &'a Path,
    space: ColourSpace,
    size: Option<VideoSize>,
    data: Vec<u8>,
    count: usize,
}

impl Frames<'_> {
    fn append(&mut self, picture: &DecodedYUV<'_>) -> Result<(), MediaError> {
        let (width, height) = picture.dimensions();
        let size = VideoSize::new(width, height);
        if *self.size.get_or_insert(size) != size {
            return Err(MediaError::unreadable(
                self.path,
                format!("frame {} has another size", self.count),
            ));
        }
        let (stride, chroma_stride, _) = picture.strides();
        let plane = |data, stride| PlaneRef { data, stride };
        let planes = [
            plane(picture.y(), stride),
            plane(picture.u(), chroma_stride),
            plane(picture.v(), chroma_stride),
        ];
        self.space.append_rgb(planes, width, height, &mut self.data);
        self.count += 1;
        Ok(())
    }
}
