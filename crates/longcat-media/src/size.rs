//! Width and height.

use std::fmt;
use std::str::FromStr;

/// Width and height in pixels; written `832x480`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VideoSize {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl VideoSize {
    /// A size of `width` pixels per row and `height` rows.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }
}

impl From<(u32, u32)> for VideoSize {
    /// From the dimensions of a picture, width first.
    fn from((width, height): (u32, u32)) -> Self {
        Self::new(width as usize, height as usize)
    }
}

impl fmt::Display for VideoSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a size is written WIDTHxHEIGHT, such as 832x480, not \"{text}\"")]
pub struct ParseSizeError {
    /// What was given.
    pub text: String,
}

impl FromStr for VideoSize {
    type Err = ParseSizeError;

    /// `WIDTHxHEIGHT`; an `X` or a multiplication sign will do, too.
    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        text.split_once(['x', 'X', '×'])
            .and_then(|(w, h)| Some(Self::new(w.parse().ok()?, h.parse().ok()?)))
            .ok_or_else(|| ParseSizeError { text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_width_by_height() {
        let size = VideoSize::new(832, 480);
        assert_eq!("832x480".parse(), Ok(size));
        assert_eq!("832×480".parse(), Ok(size));
        assert_eq!(size.to_string(), "832x480");
        for text in ["832", "832x", "x", "axb", "-1x5"] {
            let message = text.parse::<VideoSize>().unwrap_err().to_string();
            assert!(message.contains(text), "{message}");
        }
    }
}
