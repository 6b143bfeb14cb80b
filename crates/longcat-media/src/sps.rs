//! The one thing in an H.264 sequence parameter set that its decoder does not pass on: colour.

/// What a stream says about its colour, in the codes of the H.264 standard (table E-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignalType {
    /// Matrix coefficients; 2 where they are not given.
    pub(crate) matrix: u8,
    /// Luma from 0 to 255.
    pub(crate) full_range: bool,
}

/// Reads the colour description of a parameter set (with its NAL header, without start code).
/// `None` if it has none, or ends too early.
pub(crate) fn signal_type(unit: &[u8]) -> Option<SignalType> {
    let payload = without_emulation_prevention(unit);
    let mut bits = Bits {
        data: &payload,
        position: 8,
    };
    let profile = bits.read(8)?;
    bits.read(16)?; // constraints, level
    bits.golomb()?; // id
    if matches!(
        profile,
        100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
    ) {
        skip_high_profile_fields(&mut bits)?;
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
    bits.golomb()?; // width
    bits.golomb()?; // height
    if bits.read(1)? == 0 {
        bits.read(1)?;
    }
    bits.read(1)?;
    if bits.read(1)? == 1 {
        for _ in 0..4 {
            bits.golomb()?; // cropping
        }
    }
    if bits.read(1)? == 0 {
        return None; // no usability information at all
    }
    const EXTENDED_ASPECT_RATIO: u32 = 255;
    if bits.read(1)? == 1 && bits.read(8)? == EXTENDED_ASPECT_RATIO {
        bits.read(32)?;
    }
    if bits.read(1)? == 1 {
        bits.read(1)?; // overscan
    }
    if bits.read(1)? == 0 {
        return None;
    }
    bits.read(3)?; // video format
    let full_range = bits.read(1)? == 1;
    let described = bits.read(1)? == 1;
    let matrix = if described {
        bits.read(16)?; // primaries, transfer
        bits.read(8)? as u8
    } else {
        2
    };
    Some(SignalType { matrix, full_range })
}

fn skip_high_profile_fields(bits: &mut Bits<'_>) -> Option<()> {
    let chroma_format = bits.golomb()?;
    if chroma_format == 3 {
        bits.read(1)?;
    }
    bits.golomb()?; // luma depth
    bits.golomb()?; // chroma depth
    bits.read(1)?;
    if bits.read(1)? == 0 {
        return Some(());
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
    Some(())
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
    fn colour_is_found_in_parameter_sets_of_x264() {
        // 1280x720, High, BT.709 matrix in full range; primaries and transfer not given.
        let described = bytes("6764001facd9405005bb016e040402800000030080000019078c18cb");
        let expected = SignalType {
            matrix: 1,
            full_range: true,
        };
        assert_eq!(signal_type(&described), Some(expected));
        // 128x96, High, usability information without colour.
        let silent = bytes("6764000aacd9420db011000003000100000300320f122596");
        assert_eq!(signal_type(&silent), None);
        for end in 0..described.len() {
            let _ = signal_type(&described[..end]);
        }
    }

    #[test]
    fn only_the_added_threes_are_dropped() {
        let payload = without_emulation_prevention(&[1, 0, 0, 3, 3, 0, 0, 3, 0, 3]);
        assert_eq!(payload, [1, 0, 0, 3, 0, 0, 0, 3]);
    }
}
