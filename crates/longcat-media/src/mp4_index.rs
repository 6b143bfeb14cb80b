//! What the index of an mp4 file says about its first video track.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroU32;
use std::path::Path;

use image::metadata::Orientation;
use shiguredo_mp4::aux::SampleTableAccessor;
use shiguredo_mp4::boxes::{Avc1Box, EdtsBox, HdlrBox, MoovBox, SampleEntry, TkhdBox, TrakBox};
use shiguredo_mp4::{BoxHeader, Decode, Error, ErrorKind};

use crate::MediaError;

/// The first video track of H.264.
pub(crate) struct Track {
    pub(crate) entry: Avc1Box,
    /// In the order in which they are decoded.
    pub(crate) samples: Vec<Sample>,
    pub(crate) orientation: Orientation,
    /// When it is shown, by its edit list, in seconds on the clock of the samples.
    pub(crate) shown: std::ops::Range<f64>,
}

/// Where a picture lies in the file, and when it is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
    /// In seconds.
    pub(crate) start: f64,
    pub(crate) duration: f64,
    pub(crate) keyframe: bool,
}

impl Track {
    /// Reads the index. Nothing of the pictures is read, but each must lie within the file.
    pub(crate) fn read(path: &Path, file: &mut File) -> Result<Self, MediaError> {
        let length = file.metadata().map_err(MediaError::io(path))?.len();
        let index = find_index(path, file, length)?;
        if index.mvex_box.is_some() {
            return Err(needs_ffmpeg(path, "it is a fragmented mp4"));
        }
        let movie_scale = index.mvhd_box.timescale;
        let track = index
            .trak_boxes
            .into_iter()
            .find(|track| track.mdia_box.hdlr_box.handler_type == HdlrBox::HANDLER_TYPE_VIDE)
            .ok_or_else(|| MediaError::unreadable(path, "it has no video track"))?;
        Self::of(path, track, movie_scale, length)
    }

    fn of(
        path: &Path,
        track: TrakBox,
        movie_scale: NonZeroU32,
        length: u64,
    ) -> Result<Self, MediaError> {
        let scale = f64::from(track.mdia_box.mdhd_box.timescale.get());
        let table = SampleTableAccessor::new(track.mdia_box.minf_box.stbl_box)
            .map_err(|e| damaged(path, &e.to_string()))?;
        let mut entry = None;
        let mut samples = Vec::new();
        for sample in table.samples() {
            match (sample.chunk().sample_entry(), &entry) {
                (SampleEntry::Avc1(avc1), None) => entry = Some(avc1.clone()),
                (SampleEntry::Avc1(avc1), Some(first)) if avc1 != first => {
                    return Err(needs_ffmpeg(path, "its format changes within the track"));
                }
                (SampleEntry::Avc1(_), Some(_)) => {}
                _ => return Err(needs_ffmpeg(path, "its codec is not H.264")),
            }
            let (offset, bytes) = (sample.data_offset(), sample.data_size());
            let end = offset.saturating_add(u64::from(bytes));
            if bytes == 0 || end > length {
                return Err(MediaError::unreadable(
                    path,
                    format!("truncated: frame {} lies beyond its end", samples.len()),
                ));
            }
            let composed = sample.composition_time_offset().unwrap_or(0);
            samples.push(Sample {
                offset,
                bytes: bytes as usize,
                start: (sample.timestamp() as f64 + composed as f64) / scale,
                duration: f64::from(sample.duration()) / scale,
                keyframe: sample.is_sync_sample(),
            });
        }
        let entry = entry.ok_or_else(|| MediaError::NoFrames {
            path: path.to_path_buf(),
        })?;
        if samples.iter().all(|sample| sample.duration == 0.0) {
            return Err(MediaError::unreadable(path, "its frames have no duration"));
        }
        let movie_scale = f64::from(movie_scale.get());
        Ok(Self {
            entry,
            samples,
            orientation: orientation(path, &track.tkhd_box)?,
            shown: shown(path, track.edts_box.as_ref(), movie_scale, scale)?,
        })
    }

    /// When the pictures are shown, earliest first: the order in which a decoder gives them.
    pub(crate) fn times(&self) -> Vec<(f64, f64)> {
        let mut times: Vec<(f64, f64)> = self
            .samples
            .iter()
            .map(|sample| (sample.start, sample.duration))
            .collect();
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        times
    }
}

/// Walks over the boxes of a file up to its index.
fn find_index(path: &Path, file: &mut File, length: u64) -> Result<MoovBox, MediaError> {
    let io = |e| MediaError::io(path)(e);
    let mut position = 0;
    loop {
        if position >= length {
            return Err(damaged(path, "truncated, or not an mp4 file"));
        }
        file.seek(SeekFrom::Start(position)).map_err(io)?;
        let mut head = Vec::new();
        file.by_ref()
            .take(BoxHeader::MAX_SIZE as u64)
            .read_to_end(&mut head)
            .map_err(io)?;
        let (header, _) = BoxHeader::decode(&head).map_err(|e| invalid(path, &e))?;
        let size = match header.box_size.get() {
            0 => length - position,
            size => size,
        };
        let name = header.box_type.as_bytes().to_vec();
        if position == 0 && name != b"ftyp" && name != b"moov" && name != b"wide" {
            return Err(damaged(path, "truncated, or not an mp4 file"));
        }
        if size < 8 || size > length - position {
            return Err(damaged(path, "truncated, or not an mp4 file"));
        }
        if name == b"moov" {
            file.seek(SeekFrom::Start(position)).map_err(io)?;
            let mut index = Vec::new();
            file.by_ref()
                .take(size)
                .read_to_end(&mut index)
                .map_err(io)?;
            let (index, _) = MoovBox::decode(&index).map_err(|e| invalid(path, &e))?;
            return Ok(index);
        }
        if name == b"moof" {
            return Err(needs_ffmpeg(path, "it is a fragmented mp4"));
        }
        position += size;
    }
}

/// The turn that the matrix of a track asks for.
fn orientation(path: &Path, header: &TkhdBox) -> Result<Orientation, MediaError> {
    let one = 1 << 16;
    let [a, b, _, c, d, ..] = header.matrix;
    let signs = [a, b, c, d].map(|value| match value {
        0 => Some(0),
        value if value == one => Some(1),
        value if value == -one => Some(-1),
        _ => None,
    });
    // Where a step to the right goes, and one down.
    match signs {
        [Some(1), Some(0), Some(0), Some(1)] => Ok(Orientation::NoTransforms),
        [Some(0), Some(1), Some(-1), Some(0)] => Ok(Orientation::Rotate90),
        [Some(-1), Some(0), Some(0), Some(-1)] => Ok(Orientation::Rotate180),
        [Some(0), Some(-1), Some(1), Some(0)] => Ok(Orientation::Rotate270),
        [Some(-1), Some(0), Some(0), Some(1)] => Ok(Orientation::FlipHorizontal),
        [Some(1), Some(0), Some(0), Some(-1)] => Ok(Orientation::FlipVertical),
        [Some(0), Some(1), Some(1), Some(0)] => Ok(Orientation::Rotate90FlipH),
        [Some(0), Some(-1), Some(-1), Some(0)] => Ok(Orientation::Rotate270FlipH),
        _ => Err(needs_ffmpeg(path, "it is to be shown turned or stretched")),
    }
}

/// What an edit list shows: one piece, after pauses.
fn shown(
    path: &Path,
    edits: Option<&EdtsBox>,
    movie_scale: f64,
    scale: f64,
) -> Result<std::ops::Range<f64>, MediaError> {
    let all = f64::NEG_INFINITY..f64::INFINITY;
    let Some(list) = edits.and_then(|edits| edits.elst_box.as_ref()) else {
        return Ok(all);
    };
    // A pause has no place in the track.
    let mut pieces = list.entries.iter().skip_while(|e| e.media_time == -1);
    match (pieces.next(), pieces.next()) {
        (None, _) => Ok(all),
        (Some(piece), None) if piece.media_time >= 0 && piece.media_rate.integer == 1 => {
            let start = piece.media_time as f64 / scale;
            let end = match piece.edit_duration {
                0 => f64::INFINITY,
                duration => start + duration as f64 / movie_scale,
            };
            Ok(start..end)
        }
        _ => Err(needs_ffmpeg(path, "its edit list cuts it into pieces")),
    }
}

fn invalid(path: &Path, error: &Error) -> MediaError {
    match error.kind {
        ErrorKind::InvalidInput => damaged(path, "truncated, or not an mp4 file"),
        _ => damaged(path, &format!("not a valid mp4 file ({})", error.reason)),
    }
}

fn damaged(path: &Path, reason: &str) -> MediaError {
    MediaError::unreadable(path, reason)
}

pub(crate) fn needs_ffmpeg(path: &Path, reason: &str) -> MediaError {
    MediaError::NeedsFfmpeg {
        path: path.to_path_buf(),
        reason: format!("{reason}, which the bundled reader cannot read"),
    }
}
