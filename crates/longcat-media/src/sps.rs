//! What the sequence parameter set of an H.264 stream says about size, samples and colour.

use crate::VideoSize;

/// A sequence parameter set, as far as pictures need it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sps {
    profile: u32,
    /// What is shown of the coded picture.
    pub(crate) size: VideoSize,
    /// 0 for luma alone, 1 for 4:2:0, 2 for 4:2:2, 3 for 4:4:4.
    chroma_format: u32,
    /// Bits of a sample.
    depth: u32,
    interlaced: bool,
    /// Width of a sample over its height, where it is given.
    pub(crate) aspect: Option<f64>,
    /// Its colour, where something is said of it.
    pub(crate) signal: Option<Signal>,
}

/// What a stream says about its colour, in the codes of the H.264 standard (tables E-3 to E-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal {
    /// Colour primaries; 2 where they are not given, as for the others.
    pub(crate) primaries: u8,
    /// Transfer characteristics.
    pub(crate) transfer: u8,
    /// Matrix coefficients.
    pub(crate) matrix: u8,
    /// Luma from 0 to 255.
    pub(crate) full_range: bool,
}

impl Signal {
    /// Nothing is said.
    pub(crate) const UNKNOWN: Self = Self {
        primaries: 2,
        transfer: 2,
        matrix: 2,
        full_range: false,
    };
}

impl Sps {
    /// Reads a parameter set (with its NAL header, without start code). `None` if it ends too early.
    pub(crate) fn parse(unit: &[u8]) -> Option<Self> {
        let payload = without_emulation_prevention(unit);
        let mut bits = Bits {
            data: &payload,
            position: 8,
        };
        let profile = bits.read(8)?;
        bits.read(16)?; // constraints, level
        bits.golomb()?; // id
        let (mut chroma_format, mut depth) = (1, 8);
        if matches!(
            profile,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        ) {
            (chroma_format, depth) = high_profile_fields(&mut bits)?;
        }
        bits.golomb()?; // bits of frame_num
        match bits.golomb()? {
            0 => {
                bits.golomb()?;
            }
            1 => {
                bits.read(1)?;
                bits.golomb()?;
                bits.golomb()?;
                for _ in 0..bits.golomb()?.min(255) {
                    bits.golomb()?;
                }
            }
            _ => {}
        }
        bits.golomb()?; // reference frames
        bits.read(1)?;
        let (columns, rows) = (bits.golomb()?, bits.golomb()?);
        let interlaced = bits.read(1)? == 0;
        if interlaced {
            bits.read(1)?;
        }
        bits.read(1)?;
        let mut crop = [0; 4];
        if bits.read(1)? == 1 {
            for side in &mut crop {
                *side = bits.golomb()?;
            }
        }
        let size = shown_size([columns, rows], interlaced, chroma_format, crop)?;
        let (aspect, signal) = match bits.read(1)? {
            1 => usability(&mut bits)?,
            _ => (None, None),
        };
        Some(Self {
            profile,
            size,
            chroma_format,
            depth,
            interlaced,
            aspect,
            signal,
        })
    }

    /// What the bundled decoder would do wrong, or not at all.
    pub(crate) fn beyond_bundled(&self) -> Option<&'static str> {
        /// Baseline, Main, Extended and High.
        const KNOWN: [u32; 4] = [66, 77, 88, 100];
        match (self.chroma_format, self.depth, self.interlaced) {
            (0, ..) => Some("it has no colour (4:0:0)"),
            (2, ..) => Some("its chroma is 4:2:2"),
            (3, ..) => Some("its chroma is 4:4:4"),
            (_, 9.., _) => Some("it has more than 8 bits a sample"),
            (_, _, true) => Some("it is interlaced"),
            _ if !KNOWN.contains(&self.profile) => {
                Some("it has a profile above High, as lossless video")
            }
            _ => None,
        }
    }
}

/// In pixels, from macroblocks and what is cropped at the left, right, top and bottom.
fn shown_size(
    [columns, rows]: [u32; 2],
    interlaced: bool,
    chroma_format: u32,
    crop: [u32; 4],
) -> Option<VideoSize> {
    let fields = if interlaced { 2 } else { 1 };
    let [unit_x, unit_y] = match chroma_format {
        1 => [2, 2],
        2 => [2, 1],
        _ => [1, 1],
    };
    let [left, right, top, bottom] = crop.map(u64::from);
    let side = |blocks: u64, cropped: u64| {
        let pixels = (16 * blocks).checked_sub(cropped)?;
        usize::try_from(pixels).ok().filter(|side| *side > 0)
    };
    let rows = fields * (u64::from(rows) + 1);
    Some(VideoSize::new(
        side(u64::from(columns) + 1, unit_x * (left + right))?,
        side(rows, fields * unit_y * (top + bottom))?,
    ))
}

/// Shape of samples, and colour.
fn usability(bits: &mut Bits<'_>) -> Option<(Option<f64>, Option<Signal>)> {
    /// Table E-1, from code 1.
    const ASPECTS: [(u32, u32); 16] = [
        (1, 1),
        (12, 11),
        (10, 11),
        (16, 11),
        (40, 33),
        (24, 11),
        (20, 11),
        (32, 11),
        (80, 33),
        (18, 11),
        (15, 11),
        (64, 33),
        (160, 99),
        (4, 3),
        (3, 2),
        (2, 1),
    ];
    const EXTENDED: u32 = 255;
    let mut aspect = None;
    if bits.read(1)? == 1 {
        aspect = match bits.read(8)? {
            EXTENDED => Some((bits.read(16)?, bits.read(16)?)),
            code => ASPECTS.get((code as usize).wrapping_sub(1)).copied(),
        };
    }
    let aspect = aspect
        .filter(|(width, height)| *width > 0 && *height > 0)
        .map(|(width, height)| f64::from(width) / f64::from(height));
    if bits.read(1)? == 1 {
        bits.read(1)?; // overscan
    }
    if bits.read(1)? == 0 {
        return Some((aspect, None));
    }
    bits.read(3)?; // video format
    let full_range = bits.read(1)? == 1;
    let mut signal = Signal {
        full_range,
        ..Signal::UNKNOWN
    };
    if bits.read(1)? == 1 {
        signal.primaries = bits.read(8)? as u8;
        signal.transfer = bits.read(8)? as u8;
        signal.matrix = bits.read(8)? as u8;
    }
    Some((aspect, Some(signal)))
}

/// Chroma format and bits of a sample.
fn high_profile_fields(bits: &mut Bits<'_>) -> Option<(u32, u32)> {
    let chroma_format = bits.golomb()?;
    if chroma_format == 3 {
        bits.read(1)?;
    }
    let deeper = bits.golomb()?.max(bits.golomb()?);
    let found = (chroma_format, 8 + deeper.min(8));
    bits.read(1)?;
    if bits.read(1)? == 0 {
        return Some(found);
    }
    let lists = if chroma_format == 3 { 12 } else { 8 };
    for list in 0..lists {
        if bits.read(1)? == 0 {
            continue;
        }
        let (mut last, mut next) = (8, 8);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = (last + bits.signed_golomb()?).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
    }
    Some(found)
}

/// Drops the 3 of every `00 00 03`, which keeps start codes from occurring in a payload.
fn without_emulation_prevention(unit: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

struct Bits<'a> {
    data: &'a [u8],
    /// In bits.
    position: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.data.get(self.position / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.position % 8) & 1);
            self.position += 1;
        }
        Some(value)
    }

    /// An unsigned Exp-Golomb number.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.read(1)? == 0 {
            zeros += 1;
        }
        if zeros > 31 {
            return None;
        }
        Some((1 << zeros) - 1 + self.read(zeros)?)
    }

    fn signed_golomb(&mut self) -> Option<i32> {
        let code = self.golomb()?;
        let magnitude = code.div_ceil(2) as i32;
        Some(if code % 2 == 1 { magnitude } else { -magnitude })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn parameter_sets_of_x264_are_understood() {
        // 1280x720, High, BT.709 matrix in full range; primaries and transfer not given.
        let described = bytes("6764001facd9405005bb016e040402800000030080000019078c18cb");
        let found = Sps::parse(&described).unwrap();
        let expected = Signal {
            matrix: 1,
            full_range: true,
            ..Signal::UNKNOWN
        };
        assert_eq!(found.signal, Some(expected));
        assert_eq!(found.size, VideoSize::new(1280, 720));
        assert_eq!(found.beyond_bundled(), None);
        // 128x96, High, usability information without colour.
        let silent = bytes("6764000aacd9420db011000003000100000300320f122596");
        let found = Sps::parse(&silent).unwrap();
        assert_eq!((found.size, found.signal), (VideoSize::new(128, 96), None));
        for end in 0..described.len() {
            let _ = Sps::parse(&described[..end]);
        }
    }

    #[test]
    fn only_the_added_threes_are_dropped() {
        let payload = without_emulation_prevention(&[1, 0, 0, 3, 3, 0, 0, 3, 0, 3]);
        assert_eq!(payload, [1, 0, 0, 3, 0, 0, 0, 3]);
    }
}
