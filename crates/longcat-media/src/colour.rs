//! What a video says about its colour, and the numbers that follow from it.

/// Which weights luma is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matrix {
    /// ITU-R BT.601, of standard-definition video.
    Bt601,
    /// ITU-R BT.709, of high-definition video; what this crate writes.
    Bt709,
    /// ITU-R BT.2020 with non-constant luminance, of ultra-high-definition video.
    Bt2020,
    /// SMPTE 240M.
    Smpte240,
    /// US FCC of 1953.
    Fcc,
}

/// How light became a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Any curve of standard dynamic range; they are not told apart.
    Sdr,
    /// Perceptual quantiser, SMPTE ST 2084.
    Pq,
    /// Hybrid log-gamma, ARIB STD-B67.
    Hlg,
}

/// Which colours the three primaries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Primaries {
    /// ITU-R BT.709, and those of standard-definition video, which hardly differ.
    Bt709,
    /// ITU-R BT.2020.
    Bt2020,
    /// Display P3, as phones use it.
    P3,
}

/// How RGB became luma and chroma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColourSpace {
    pub(crate) matrix: Matrix,
    /// Luma from 0 to 255 rather than from 16 to 235.
    pub(crate) full_range: bool,
    pub(crate) transfer: Transfer,
    pub(crate) primaries: Primaries,
}

/// Offsets and scales of a colour space, in steps of a bit depth.
pub(crate) struct Levels {
    pub(crate) kr: f32,
    pub(crate) kb: f32,
    /// Luma of black.
    pub(crate) black: f32,
    /// Luma from black to white.
    pub(crate) luma: f32,
    /// Chroma of grey.
    pub(crate) grey: f32,
    /// Chroma from end to end.
    pub(crate) chroma: f32,
}

impl Matrix {
    /// From the code of ITU-T H.273, table 4; `None` for one that is no weighted sum, and for 2,
    /// which says nothing.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Bt709),
            4 => Some(Self::Fcc),
            5 | 6 => Some(Self::Bt601),
            7 => Some(Self::Smpte240),
            9 => Some(Self::Bt2020),
            _ => None,
        }
    }

    /// What players take where nothing is said: BT.709 for what is larger than a television picture
    /// of standard definition.
    pub(crate) fn guess(width: usize, height: usize) -> Self {
        if width >= 1280 || height > 576 {
            Self::Bt709
        } else {
            Self::Bt601
        }
    }

    fn weights(self) -> (f32, f32) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
            Self::Smpte240 => (0.212, 0.087),
            Self::Fcc => (0.3, 0.11),
        }
    }
}

impl Transfer {
    /// From the code of ITU-T H.273, table 3.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            16 => Self::Pq,
            18 => Self::Hlg,
            _ => Self::Sdr,
        }
    }
}

impl Primaries {
    /// From the code of ITU-T H.273, table 2.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            9 => Self::Bt2020,
            11 | 12 => Self::P3,
            _ => Self::Bt709,
        }
    }
}

impl ColourSpace {
    /// Standard dynamic range with the primaries of BT.709.
    pub(crate) const fn sdr(matrix: Matrix, full_range: bool) -> Self {
        Self {
            matrix,
            full_range,
            transfer: Transfer::Sdr,
            primaries: Primaries::Bt709,
        }
    }

    /// Its numbers at `depth` bits.
    pub(crate) fn levels(self, depth: u32) -> Levels {
        let (kr, kb) = self.matrix.weights();
        let step = (1u32 << (depth - 8)) as f32;
        let (black, luma, chroma) = if self.full_range {
            let top = ((1u32 << depth) - 1) as f32;
            (0.0, top, top)
        } else {
            (16.0 * step, 219.0 * step, 224.0 * step)
        };
        Levels {
            kr,
            kb,
            black,
            luma,
            grey: 128.0 * step,
            chroma,
        }
    }
}

/// The nearest byte.
pub(crate) fn to_byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}
