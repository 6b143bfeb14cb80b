//! H.264 in mp4 files, written with the index in front.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use shiguredo_mp4::boxes::{Avc1Box, AvccBox, SampleEntry, UnknownBox, VisualSampleEntryFields};
use shiguredo_mp4::mux::{Mp4FileMuxer, Mp4FileMuxerOptions, Sample};
use shiguredo_mp4::{BoxSize, BoxType, TrackKind, Uint};

use crate::h264::{ParameterSets, Picture};
use crate::h264_groups::GroupEncoder;
use crate::partial::Partial;
use crate::{MediaError, VideoSpec, VideoWriter, WriteOptions, mp4_tags};

/// Room for the index before the pictures, so that players need not look for it at the end: enough
/// for some 3000 frames. The index of a longer video goes to the end, which costs a seek.
const RESERVED_INDEX: usize = 16 * 1024;

/// H.264 in an mp4 container, without audio.
pub(crate) struct Mp4Writer {
    path: PathBuf,
    partial: Partial,
    file: BufWriter<File>,
    position: u64,
    spec: VideoSpec,
    timescale: NonZeroU32,
    duration: u32,
    encoder: GroupEncoder,
    /// Whether the index has the stream's parameters.
    described: bool,
    muxer: Mp4FileMuxer,
    /// Goes to the end of the index.
    user_data: Option<Vec<u8>>,
}

impl Mp4Writer {
    pub(crate) fn create(
        path: &Path,
        spec: VideoSpec,
        options: &WriteOptions,
    ) -> Result<Self, MediaError> {
        let (timescale, duration) = time_base(spec.fps);
        let user_data = options.metadata.as_deref().map(mp4_tags::user_data);
        let reserved = RESERVED_INDEX + user_data.as_ref().map_or(0, Vec::len);
        let failed = |e: String| MediaError::encode(path, e);
        let encoder = GroupEncoder::new(spec, options.quality).map_err(failed)?;
        let muxer = Mp4FileMuxer::with_options(Mp4FileMuxerOptions {
            reserved_moov_box_size: reserved,
            ..Default::default()
        })
        .map_err(|e| MediaError::encode(path, e))?;

        let (partial, file) = Partial::file(path)?;
        let mut file = BufWriter::new(file);
        let head = muxer.initial_boxes_bytes();
        file.write_all(head).map_err(MediaError::io(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            position: head.len() as u64,
            partial,
            file,
            spec,
            timescale,
            duration,
            encoder,
            described: false,
            muxer,
            user_data,
        })
    }
}

impl Mp4Writer {
    fn append(&mut self, pictures: Vec<Picture>) -> Result<(), MediaError> {
        pictures
            .into_iter()
            .try_for_each(|picture| self.append_one(&picture))
    }

    fn append_one(&mut self, picture: &Picture) -> Result<(), MediaError> {
        let entry = match self.encoder.parameters() {
            Some(sets) if !self.described => Some(sample_entry(&self.spec, sets)),
            _ => None,
        };
        self.described |= entry.is_some();
        self.file
            .write_all(&picture.data)
            .map_err(MediaError::io(&self.path))?;
        let sample = Sample {
            track_kind: TrackKind::Video,
            sample_entry: entry,
            keyframe: picture.keyframe,
            timescale: self.timescale,
            duration: self.duration,
            composition_time_offset: None,
            data_offset: self.position,
            data_size: picture.data.len(),
        };
        self.position += picture.data.len() as u64;
        self.muxer
            .append_sample(&sample)
            .map_err(|e| MediaError::encode(&self.path, e))
    }
}

impl VideoWriter for Mp4Writer {
    fn push(&mut self, frame: &[u8]) -> Result<(), MediaError> {
        let pictures = self.encoder.push(frame);
        let pictures = pictures.map_err(|e| MediaError::encode(&self.path, e))?;
        self.append(pictures)
    }

    fn finish(mut self: Box<Self>) -> Result<(), MediaError> {
        let pictures = self.encoder.finish();
        let pictures = pictures.map_err(|e| MediaError::encode(&self.path, e))?;
        self.append(pictures)?;
        let io = |e| MediaError::io(&self.path)(e);
        let boxes = self
            .muxer
            .finalize()
            .map_err(|e| MediaError::encode(&self.path, e))?;
        let mut pieces: Vec<(u64, Vec<u8>)> = boxes
            .offset_and_bytes_pairs()
            .map(|(offset, bytes)| (offset, bytes.to_vec()))
            .collect();
        if let Some(user_data) = &self.user_data {
            mp4_tags::append_to_index(&mut pieces, user_data)
                .ok_or_else(|| MediaError::encode(&self.path, "no room for the metadata"))?;
        }
        for (offset, bytes) in pieces {
            self.file.seek(SeekFrom::Start(offset)).map_err(io)?;
            self.file.write_all(&bytes).map_err(io)?;
        }
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_all().map_err(io)?;
        self.partial.finish()
    }
}

/// Ticks per second and ticks per frame, of 0.01 to 1000 frames per second. Rates such as 29.97 are
/// held exactly as 30000/1001.
fn time_base(fps: f64) -> (NonZeroU32, u32) {
    let ntsc = fps * 1.001;
    let is_ntsc = (ntsc - ntsc.round()).abs() < 1e-3 && (fps - fps.round()).abs() > 1e-3;
    let (ticks, duration) = if is_ntsc {
        (ntsc.round() * 1000.0, 1001)
    } else {
        (fps * 1000.0, 1000)
    };
    let ticks = NonZeroU32::new(ticks.round() as u32);
    (ticks.unwrap_or(NonZeroU32::MIN), duration)
}

fn sample_entry(spec: &VideoSpec, sets: &ParameterSets) -> SampleEntry {
    // The three bytes after the NAL header are profile, constraints and level.
    let byte = |i: usize| sets.sps.get(i).copied().unwrap_or_default();
    SampleEntry::Avc1(Avc1Box {
        visual: VisualSampleEntryFields {
            data_reference_index: VisualSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
            // At most 3840, as checked on creation.
            width: spec.size.width as u16,
            height: spec.size.height as u16,
            horizresolution: VisualSampleEntryFields::DEFAULT_HORIZRESOLUTION,
            vertresolution: VisualSampleEntryFields::DEFAULT_VERTRESOLUTION,
            frame_count: VisualSampleEntryFields::DEFAULT_FRAME_COUNT,
            compressorname: VisualSampleEntryFields::NULL_COMPRESSORNAME,
            depth: VisualSampleEntryFields::DEFAULT_DEPTH,
        },
        avcc_box: AvccBox {
            avc_profile_indication: byte(1),
            profile_compatibility: byte(2),
            avc_level_indication: byte(3),
            length_size_minus_one: Uint::new(3),
            sps_list: vec![sets.sps.clone()],
            pps_list: vec![sets.pps.clone()],
            chroma_format: None,
            bit_depth_luma_minus8: None,
            bit_depth_chroma_minus8: None,
            sps_ext_list: Vec::new(),
        },
        unknown_boxes: vec![colour_box()],
    })
}

/// The `colr` box for BT.709 in limited range, as in the stream itself.
fn colour_box() -> UnknownBox {
    let mut payload = b"nclx".to_vec();
    for code in [1u16, 1, 1] {
        payload.extend(code.to_be_bytes());
    }
    payload.push(0);
    UnknownBox {
        box_type: BoxType::Normal(*b"colr"),
        box_size: BoxSize::U32(8 + payload.len() as u32),
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::time_base;

    #[test]
    fn frame_rates_are_exact() {
        let base = |fps| {
            let (ticks, duration) = time_base(fps);
            (ticks.get(), duration)
        };
        assert_eq!(base(15.0), (15000, 1000));
        assert_eq!(base(30000.0 / 1001.0), (30000, 1001));
        assert_eq!(base(23.976), (24000, 1001));
        assert_eq!(base(12.5), (12500, 1000));
        assert_eq!(base(0.01), (10, 1000));
    }
}
