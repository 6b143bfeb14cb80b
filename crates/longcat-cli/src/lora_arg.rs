//! An adapter with its strength, and where and when it acts, as the command line names it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use longcat_video::{LoraScope, ParseScopeError};

/// `PATH[=STRENGTH][@PART]...`, with the parts of a [`LoraScope`].
#[derive(Debug, Clone, PartialEq)]
pub struct LoraArg {
    pub path: PathBuf,
    pub strength: f64,
    pub scope: LoraScope,
}

/// Why a text names no adapter.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParseLoraError {
    #[error("the strength {0} is not finite")]
    NotFinite(f64),
    #[error("{0:?} after = is not a number")]
    NoNumber(String),
    #[error("{0}: the strength comes before where and when, as in PATH=0.8@attn@steps.0-50%")]
    StrengthLast(String),
    #[error("the strength comes after =, as in {0}={1}")]
    Colon(String, String),
    #[error("{0:?} has no path in front of it")]
    NoPath(String),
    #[error(transparent)]
    Scope(#[from] ParseScopeError),
}

/// What sets settings off from a path.
const SIGNS: [char; 2] = ['=', '@'];

impl LoraArg {
    /// An adapter that acts everywhere at its own scale.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            strength: 1.0,
            scope: LoraScope::default(),
        }
    }

    /// `settings` are `[=STRENGTH][@PART]...`.
    fn with_settings(path: &str, settings: &str) -> Result<Self, ParseLoraError> {
        if path.is_empty() {
            return Err(ParseLoraError::NoPath(settings.into()));
        }
        let (strength, scope) = settings.split_at(settings.find('@').unwrap_or(settings.len()));
        if scope.contains('=') {
            return Err(ParseLoraError::StrengthLast(scope.into()));
        }
        let strength = match strength.strip_prefix('=') {
            None => 1.0,
            Some(text) => text
                .parse::<f64>()
                .map_err(|_| ParseLoraError::NoNumber(text.into()))?,
        };
        if !strength.is_finite() {
            return Err(ParseLoraError::NotFinite(strength));
        }
        Ok(Self {
            path: path.into(),
            strength,
            scope: scope.parse()?,
        })
    }
}

impl FromStr for LoraArg {
    type Err = ParseLoraError;

    fn from_str(text: &str) -> Result<Self, ParseLoraError> {
        // A path may hold the signs: what exists as it is written has no settings, and of what exists in
        // front of a sign the longest is the path.
        if Path::new(text).exists() {
            return Ok(Self::new(text));
        }
        // Signs before a separator are part of a folder's name.
        let name = text.rfind(['/', '\\']).map_or(0, |separator| separator + 1);
        let signs = text.rmatch_indices(SIGNS).map(|(at, _)| at);
        let mut cuts = signs.take_while(|at| *at >= name);
        if let Some(cut) = cuts.find(|at| Path::new(&text[..*at]).exists()) {
            // As in step=1.safetensors beside a folder called step.
            if !text[cut..].ends_with(".safetensors") {
                return Self::with_settings(&text[..cut], &text[cut..]);
            }
        }
        // As ComfyUI's users write it.
        if let Some((path, strength)) = text.rsplit_once(':')
            && strength.parse::<f64>().is_ok()
            && Path::new(path).exists()
        {
            return Err(ParseLoraError::Colon(path.into(), strength.into()));
        }
        let cut = cut_missing(text, name);
        Self::with_settings(&text[..cut], &text[cut..])
    }
}

/// Where the settings of a path that does not exist begin; `name` is where its last part does.
fn cut_missing(text: &str, name: usize) -> usize {
    let scope = text[name..].find('@').map_or(text.len(), |at| name + at);
    let scope = match text[scope..].ends_with(".safetensors") {
        true => text.len(),
        false => scope,
    };
    match text[name..scope].rfind('=') {
        // What is no number, and has an ending, is part of the name.
        Some(sign) if !is_name(&text[name + sign + 1..scope]) => name + sign,
        _ => scope,
    }
}

fn is_name(text: &str) -> bool {
    text.contains('.') && text.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn adapters_take_a_strength_after_the_last_equals_sign() {
        let parsed = |text: &str| text.parse::<LoraArg>().map(|l| (l.path, l.strength));
        assert_eq!(parsed("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        let colon = ParseLoraError::Colon("Cargo.toml".into(), "0.8".into());
        assert_eq!(parsed("Cargo.toml:0.8"), Err(colon));
        assert_eq!(
            parsed("C:\\a.safetensors"),
            Ok(("C:\\a.safetensors".into(), 1.0))
        );
        assert_eq!(parsed("r=8/a=0.5"), Ok(("r=8/a".into(), 0.5)));
        assert_eq!(parsed("r=8=0.5"), Ok(("r=8".into(), 0.5)));
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

    #[test]
    fn where_and_when_follow_the_strength() {
        let parsed = |text: &str| {
            let lora: LoraArg = text.parse().unwrap();
            (lora.path, lora.strength, lora.scope.to_string())
        };
        for (text, path, strength, scope) in [
            ("a=0.8@blocks.10-30", "a", 0.8, "@blocks.10-30"),
            ("a@attn@steps.0-50%", "a", 1.0, "@attn@steps.0-50%"),
            (
                "x=1/a.safetensors=-2@ffn,attn@refine",
                "x=1/a.safetensors",
                -2.0,
                "@ffn,attn@refine",
            ),
            ("me@home/a=0.5", "me@home/a", 0.5, ""),
            ("me@home.safetensors", "me@home.safetensors", 1.0, ""),
        ] {
            assert_eq!(
                parsed(text),
                (path.into(), strength, scope.into()),
                "{text}"
            );
        }
        // What exists is the path, as much of it as does.
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        for name in ["a", "a@attn", "b=1"] {
            std::fs::write(at(name), b"").unwrap();
        }
        for (text, path, strength, scope) in [
            ("a@attn", "a@attn", 1.0, ""),
            ("a@attn@ffn", "a@attn", 1.0, "@ffn"),
            ("a@ffn", "a", 1.0, "@ffn"),
            ("b=1", "b=1", 1.0, ""),
            ("b=1=2@steps.3", "b=1", 2.0, "@steps.3"),
        ] {
            let expected = (PathBuf::from(at(path)), strength, scope.to_string());
            assert_eq!(parsed(&at(text)), expected, "{text}");
        }
        for (text, words) in [
            ("a@attn=0.8", "@attn=0.8: the strength comes before"),
            ("a=0.8@blocks.30-10", "@blocks.30-10: "),
            ("a=1@steps.x", "@steps.x: an end is no number"),
            ("@attn", "\"@attn\" has no path"),
            ("a=b@attn", "\"b\" after = is not a number"),
        ] {
            let error = text.parse::<LoraArg>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
