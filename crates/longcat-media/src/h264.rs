//! H.264 through OpenH264, whose source is compiled into this crate.

use openh264::OpenH264API;
use openh264::encoder::{
    Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, Profile, QpRange,
    RateControlMode, VuiConfig,
};
use openh264::formats::YUVSlices;
use openh264_sys2::{ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, SEncParamExt};

use crate::VideoSize;
use crate::colour::{ColourSpace, Matrix};
use crate::planar::Planar;

/// What the encoder is told to write into the stream, and the pictures are converted to.
pub(crate) const WRITTEN: ColourSpace = ColourSpace::sdr(Matrix::Bt709, false);

/// NAL unit types that matter to a container.
const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;

/// Frames from key frame to key frame where files are to be small.
const KEY_FRAME_PERIOD: usize = 3;
/// Up to this quantiser the stream is made to be written again: see [`repeatable`].
const MOST_REPEATABLE: u8 = 20;

/// Whether what was read from a stream comes out of the encoder as it was, but for few coefficients. That
/// takes key frames alone, as OpenH264 drops single coefficients of those between, anew each time, and no
/// deblocking, which hides the blocks of coarse quantisers and changes what others keep.
fn repeatable(quantiser: u8) -> bool {
    quantiser <= MOST_REPEATABLE
}

/// The quantiser of a quality from 0 to 100.
fn quantiser(quality: u8) -> u8 {
    42 - (u32::from(quality.min(100)) * 36 / 100) as u8
}

/// Frames from key frame to key frame at a quality.
pub(crate) fn key_frame_period(quality: u8) -> usize {
    match repeatable(quantiser(quality)) {
        true => 1,
        false => KEY_FRAME_PERIOD,
    }
}

/// One encoded picture.
pub(crate) struct Picture {
    /// Slices and supplemental data, each with its length in four bytes before it.
    pub(crate) data: Vec<u8>,
    /// Whether decoding can start here.
    pub(crate) keyframe: bool,
}

/// Parameter sets, without start codes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ParameterSets {
    pub(crate) sps: Vec<u8>,
    pub(crate) pps: Vec<u8>,
}

/// Encodes frames of one size with a constant quantiser.
pub(crate) struct H264Encoder {
    encoder: Encoder,
    parameters: Option<ParameterSets>,
    /// Whether the deblocking filter must still be turned off.
    filters: bool,
}

impl H264Encoder {
    pub(crate) fn new(fps: f64, quality: u8) -> Result<Self, String> {
        let repeatable = repeatable(quantiser(quality));
        let period = key_frame_period(quality);
        let quantiser = quantiser(quality);
        let config = EncoderConfig::new()
            .profile(Profile::Baseline)
            .max_frame_rate(FrameRate::from_hz(fps as f32))
            // The mode that neither drops frames nor looks at the bit rate, and keeps to the range.
            .rate_control_mode(RateControlMode::Bufferbased)
            .qp(QpRange::new(quantiser, quantiser))
            .skip_frames(false)
            .adaptive_quantization(false)
            // Its change makes OpenH264 take other settings up, see `turn_filter_off`.
            .background_detection(repeatable)
            .intra_frame_period(IntraFramePeriod::from_num_frames(period as u32))
            .num_threads(1)
            // Key frames come where they are expected alone, see `GroupEncoder`.
            .scene_change_detect(false)
            .vui(VuiConfig::bt709());
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(|e| e.to_string())?;
        Ok(Self {
            encoder,
            parameters: None,
            filters: repeatable,
        })
    }

    /// OpenH264 can do without its filter, but the crate around it has no such setting. It can be changed once
    /// the encoder has begun, which it does with a picture: a grey one, that goes nowhere.
    fn turn_filter_off(&mut self, size: VideoSize) -> Result<(), String> {
        let grey = vec![128; Planar::YUV420.bytes(size)];
        self.encoder
            .encode(&slices(&grey, size))
            .map_err(|e| e.to_string())?;
        let mut settings = SEncParamExt::default();
        // SAFETY: the encoder has begun, and this option is read and written as such a structure.
        let code = unsafe {
            let api = self.encoder.raw_api();
            let option = ENCODER_OPTION_SVC_ENCODE_PARAM_EXT;
            match api.get_option(option, (&raw mut settings).cast()) {
                0 => {
                    settings.iLoopFilterDisableIdc = 1;
                    settings.bEnableBackgroundDetection = false;
                    api.set_option(option, (&raw mut settings).cast())
                }
                code => code,
            }
        };
        match code {
            0 => Ok(()),
            code => Err(format!("OpenH264 does not take its settings (code {code})")),
        }
    }

    /// Parameter sets of the stream, known after the first picture.
    pub(crate) fn parameters(&self) -> Option<&ParameterSets> {
        self.parameters.as_ref()
    }

    /// Encodes a frame in planes of 4:2:0, one after another, if wanted as a key frame. Sides are even.
    pub(crate) fn encode(
        &mut self,
        planes: &[u8],
        size: VideoSize,
        key: bool,
    ) -> Result<Picture, String> {
        if self.filters {
            self.turn_filter_off(size)?;
            self.filters = false;
        }
        if key {
            self.encoder.force_intra_frame();
        }
        let source = slices(planes, size);
        let stream = self.encoder.encode(&source).map_err(|e| e.to_string())?;
        if matches!(stream.frame_type(), FrameType::Skip | FrameType::Invalid) {
            return Err("the encoder dropped a frame".into());
        }
        let bytes = stream.to_vec();
        let mut picture = Picture {
            data: Vec::with_capacity(bytes.len()),
            keyframe: false,
        };
        let (mut sps, mut pps) = (None, None);
        for unit in split_annex_b(&bytes) {
            match unit.first().map(|header| header & 0x1f) {
                None => {}
                Some(SPS) => sps = Some(unit.to_vec()),
                Some(PPS) => pps = Some(unit.to_vec()),
                Some(kind) => {
                    picture.keyframe |= kind == IDR;
                    picture.data.extend((unit.len() as u32).to_be_bytes());
                    picture.data.extend(unit);
                }
            }
        }
        if let (Some(sps), Some(pps)) = (sps, pps) {
            let sets = ParameterSets { sps, pps };
            // The container holds them once, for all of the stream.
            if self.parameters.as_ref().is_some_and(|known| *known != sets) {
                return Err("the encoder changed its parameters within the stream".into());
            }
            self.parameters = Some(sets);
        }
        Ok(picture)
    }
}

/// Planes of 4:2:0, one after another, as the encoder takes them.
fn slices(planes: &[u8], size: VideoSize) -> YUVSlices<'_> {
    let VideoSize { width, height } = size;
    let (y, chroma) = planes.split_at(width * height);
    let (u, v) = chroma.split_at(chroma.len() / 2);
    YUVSlices::new((y, u, v), (width, height), (width, width / 2, width / 2))
}

/// NAL units of a stream in which start codes (`00 00 01`) separate them.
fn split_annex_b(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut starts: Vec<usize> = stream
        .windows(3)
        .enumerate()
        .filter(|(_, bytes)| *bytes == [0, 0, 1])
        .map(|(i, _)| i + 3)
        .collect();
    starts.push(stream.len() + 3);
    (1..starts.len()).map(move |i| {
        let unit = &stream[starts[i - 1]..starts[i] - 3];
        // Zeros before a start code belong to it; a unit never ends in one.
        let end = unit
            .iter()
            .rposition(|&b| b != 0)
            .map_or(0, |last| last + 1);
        &unit[..end]
    })
}

/// Turns a picture whose NAL units carry their length in `length_size` bytes into one with start
/// codes; `None` if the lengths do not add up.
pub(crate) fn to_annex_b(picture: &[u8], length_size: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = picture;
    while !rest.is_empty() {
        let (length, after) = rest.split_at_checked(length_size)?;
        let length = length.iter().fold(0, |n, &b| n << 8 | usize::from(b));
        let (unit, after) = after.split_at_checked(length)?;
        append_unit(unit, out);
        rest = after;
    }
    Some(())
}

/// Whether nothing after a picture refers to what is before it.
pub(crate) fn has_instant_refresh(picture: &[u8], length_size: usize) -> bool {
    let mut rest = picture;
    while let Some((length, after)) = rest.split_at_checked(length_size) {
        let length = length.iter().fold(0, |n, &b| n << 8 | usize::from(b));
        if after.first().is_some_and(|header| header & 0x1f == IDR) {
            return true;
        }
        rest = after.get(length..).unwrap_or_default();
    }
    false
}

/// Appends a NAL unit with a start code before it.
pub(crate) fn append_unit(unit: &[u8], out: &mut Vec<u8>) {
    out.extend([0, 0, 0, 1]);
    out.extend(unit);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sps::{Signal, Sps};

    #[test]
    fn the_stream_says_which_colour_space_it_has() {
        let mut encoder = H264Encoder::new(15.0, 75).unwrap();
        let size = VideoSize::new(32, 16);
        let planes = Planar::YUV420.planes(&[128; 32 * 16 * 3], size, WRITTEN);
        let picture = encoder.encode(&planes, size, true).unwrap();
        assert!(picture.keyframe && has_instant_refresh(&picture.data, 4));
        let expected = Signal {
            primaries: 1,
            transfer: 1,
            matrix: 1,
            full_range: false,
        };
        let sps = Sps::parse(&encoder.parameters().unwrap().sps).unwrap();
        assert_eq!((sps.signal, sps.size), (Some(expected), size));
    }

    #[test]
    fn units_are_found_between_start_codes() {
        let stream = [0, 0, 0, 1, 7, 9, 0, 0, 1, 8, 0, 0, 0, 1, 5, 0, 3, 4];
        let units: Vec<&[u8]> = split_annex_b(&stream).collect();
        assert_eq!(units, [&[7, 9][..], &[8], &[5, 0, 3, 4]]);
        assert_eq!(split_annex_b(&[]).count(), 0);
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let mut out = Vec::new();
        assert_eq!(to_annex_b(&[0, 2, 5, 6, 0, 1, 7], 2, &mut out), Some(()));
        assert_eq!(out, [0, 0, 0, 1, 5, 6, 0, 0, 0, 1, 7]);
        assert_eq!(to_annex_b(&[0, 3, 5, 6], 2, &mut out), None);
        assert_eq!(to_annex_b(&[0], 2, &mut out), None);
    }
}
