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
        // A path may hold an equals sign: what exists as it is written has no strength, and only a
        // number after the last sign is one.
        if Path::new(text).exists() {
            return Ok(Self {
                path: text.into(),
                strength: 1.0,
            });
        }
        let parsed = text
            .rsplit_once('=')
            .map(|(path, strength)| (path, strength.parse::<f64>()));
        match parsed {
            Some((path, Ok(strength))) if strength.is_finite() => Ok(Self {
                path: path.into(),
                strength,
            }),
            Some((_, Ok(strength))) => Err(ParseLoraError::NotFinite(strength)),
            // A separator after the sign: the sign is part of a folder's name.
            Some((_, Err(_))) if !after_last_sign(text).contains(['/', '\\', '.']) => {
                Err(ParseLoraError::NoNumber)
            }
            _ => Ok(Self {
                path: text.into(),
                strength: 1.0,
            }),
        }
    }
}

fn after_last_sign(text: &str) -> &str {
    text.rsplit_once('=').map_or(text, |(_, after)| after)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn adapters_take_a_strength_after_the_last_equals_sign() {
        let parsed = |text: &str| text.parse::<LoraArg>().map(|l| (l.path, l.strength));
        assert_eq!(parsed("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(parsed("r=8/a=0.5"), Ok(("r=8/a".into(), 0.5)));
        assert_eq!(parsed("run=3/"), Ok(("run=3/".into(), 1.0)));
        assert_eq!(parsed("run=3/=0.5"), Ok(("run=3/".into(), 0.5)));
        let named = "step=1.safetensors";
        assert_eq!(parsed(named), Ok((named.into(), 1.0)));
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run=3");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(parsed(folder.to_str().unwrap()), Ok((folder.clone(), 1.0)));
        assert!(parsed("a=nan").is_err());
        assert!(parsed("a=strong").is_err());
    }
}
