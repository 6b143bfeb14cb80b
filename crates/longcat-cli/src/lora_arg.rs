//! An adapter with its strength, as the command line names it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `PATH` or `PATH=STRENGTH`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraArg {
    pub path: PathBuf,
    pub strength: f64,
}

/// Why a text names no adapter with a strength.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParseLoraError {
    #[error("the strength {0} is not finite")]
    NotFinite(f64),
    #[error("the part after = is not a number")]
    NoNumber,
}

impl FromStr for LoraArg {
    type Err = ParseLoraError;

    fn from_str(text: &str) -> Result<Self, ParseLoraError> {
        // A path may hold an equals sign: only a number after the last one is a strength.
        let parsed = text
            .rsplit_once('=')
            .map(|(path, strength)| (path, strength.parse::<f64>()));
        match parsed {
            Some((path, Ok(strength))) if strength.is_finite() => Ok(Self {
                path: path.into(),
                strength,
            }),
            Some((_, Ok(strength))) => Err(ParseLoraError::NotFinite(strength)),
            Some((_, Err(_))) if !Path::new(text).exists() => Err(ParseLoraError::NoNumber),
            _ => Ok(Self {
                path: text.into(),
                strength: 1.0,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_take_a_strength_after_the_last_equals_sign() {
        let parsed = |text: &str| text.parse::<LoraArg>().map(|l| (l.path, l.strength));
        assert_eq!(parsed("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(parsed("r=8/a=0.5"), Ok(("r=8/a".into(), 0.5)));
        assert!(parsed("a=nan").is_err());
        assert!(parsed("a=strong").is_err());
    }
}
