//! How much memory may be taken.

use std::fmt;
use std::str::FromStr;

/// How much of a device's memory a pipeline may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryLimit {
    /// What is free when the pipeline is opened; everything where the device does not tell.
    #[default]
    Auto,
    /// All models stay where they are, whatever is free.
    Unlimited,
    /// So many bytes, or what is free where that is less.
    AtMost(u64),
}

/// Why a text names no amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseMemoryError {
    /// No positive number in front.
    #[error(
        "{0:?} is no amount of memory; use auto, unlimited, or a number with a unit, as in 12GiB"
    )]
    Number(String),
    /// A number, and something else than a unit after it.
    #[error("{0:?} is no unit of memory; use MiB, GiB, MB or GB")]
    Unit(String),
}

impl MemoryLimit {
    /// Bytes that may be taken where so many are free; `None` is no limit.
    pub fn within(self, free: Option<u64>) -> Option<u64> {
        // Others may take some of it meanwhile, the display among them.
        const SPARED: u64 = 50;
        match self {
            Self::Unlimited => None,
            Self::Auto => free.map(|free| free - free / SPARED),
            Self::AtMost(bytes) => Some(free.map_or(bytes, |free| free.min(bytes))),
        }
    }
}

impl FromStr for MemoryLimit {
    type Err = ParseMemoryError;

    fn from_str(text: &str) -> Result<Self, ParseMemoryError> {
        let text = text.trim();
        match text {
            "auto" => return Ok(Self::Auto),
            "unlimited" => return Ok(Self::Unlimited),
            _ => {}
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let number: f64 = number
            .parse()
            .map_err(|_| ParseMemoryError::Number(text.into()))?;
        let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            "mib" => 1_048_576.0,
            "gib" => 1_073_741_824.0,
            "mb" => 1e6,
            "gb" => 1e9,
            "" => return Err(ParseMemoryError::Number(text.into())),
            _ => return Err(ParseMemoryError::Unit(unit.trim().into())),
        };
        let bytes = (number * factor).round();
        // Beyond this no device goes, and no sum of sizes overflows.
        match (1.0..=1e15).contains(&bytes) {
            true => Ok(Self::AtMost(bytes as u64)),
            false => Err(ParseMemoryError::Number(text.into())),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Unlimited => f.write_str("unlimited"),
            Self::AtMost(bytes) => f.write_str(&in_words(*bytes)),
        }
    }
}

/// Bytes in GiB or MiB.
pub fn in_words(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_073_741_824 => format!("{:.1} MiB", value / 1_048_576.0),
        _ => format!("{:.2} GiB", value / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_a_unit() {
        let parsed = |text: &str| text.parse::<MemoryLimit>();
        assert_eq!(parsed("auto"), Ok(MemoryLimit::Auto));
        assert_eq!(parsed("unlimited"), Ok(MemoryLimit::Unlimited));
        assert_eq!(parsed("12GiB"), Ok(MemoryLimit::AtMost(12 << 30)));
        assert_eq!(parsed("1.5 gib"), Ok(MemoryLimit::AtMost(3 << 29)));
        assert_eq!(parsed("64MiB"), Ok(MemoryLimit::AtMost(64 << 20)));
        assert_eq!(parsed("24GB"), Ok(MemoryLimit::AtMost(24_000_000_000)));
        for wrong in [
            "", "GiB", "-1GiB", "0GiB", "1.2.3GiB", "1e30GiB", "12", "12GiBs",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        let huge = format!("{}GiB", "9".repeat(400));
        assert!(parsed(&huge).is_err());
    }
}
