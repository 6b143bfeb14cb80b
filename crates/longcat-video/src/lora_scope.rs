//! Where and when an adapter acts, and how that is written.

use std::fmt;
use std::str::FromStr;

use longcat_lora::{LayerScope, ParsePlaceError};

/// Where and when an adapter acts: on which layers, in which steps, in which stages. By default everywhere
/// and always.
///
/// It is written in parts with `@` in front of each, all of which must hold:
///
/// - places: `blocks.10-30`, `attn`, `blocks.*.ffn.w1` ([`LayerScope`]);
/// - times: `steps.0-50%` (shares of the steps, up to where the next share begins), `steps.1-8` or
///   `steps.3` (numbers of steps, from 1);
/// - stages: `first`, `refine`.
///
/// Commas in a part mean any of its places, or both stages.
///
/// ```
/// use longcat_video::LoraScope;
///
/// let scope: LoraScope = "@blocks.10-30@attn,ffn@steps.0-50%@first".parse()?;
/// assert_eq!(scope.to_string(), "@blocks.10-30@attn,ffn@steps.0-50%@first");
/// # Ok::<(), longcat_video::ParseScopeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoraScope {
    /// The layers.
    pub layers: LayerScope,
    /// The steps; all where `None`.
    pub steps: Option<StepScope>,
    /// The stages; where `None`, those in which such adapters act.
    pub stages: Option<LoraStages>,
}

/// Some of the steps of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StepScope {
    /// Steps by their numbers from 1.
    Numbers {
        /// The first one.
        first: usize,
        /// The last one.
        last: usize,
    },
    /// Shares of the steps in percent: two that meet have no step in common.
    Percent {
        /// Where it begins.
        from: f64,
        /// Where it ends.
        to: f64,
    },
}

/// Stages in which an adapter acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraStages {
    /// Generating.
    First,
    /// Refining.
    Refine,
    /// Both.
    Both,
}

/// Why a text says not where and when an adapter acts. Messages quote the part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseScopeError {
    /// A part that names no place.
    #[error("@{part}: {cause}")]
    Place {
        /// The part.
        part: String,
        /// Why.
        cause: ParsePlaceError,
    },
    /// Steps that are not `steps.A-B%`, `steps.A-B` or `steps.N`.
    #[error("@{part}: {reason}; steps are steps.A-B%, steps.A-B or steps.N")]
    Steps {
        /// The part.
        part: String,
        /// Why.
        reason: &'static str,
    },
    /// A second part of steps or of stages.
    #[error("@{part}: another part says already which {what}; give one range")]
    Twice {
        /// The part.
        part: String,
        /// `steps` or `stages`.
        what: &'static str,
    },
}

impl StepScope {
    /// Whether step `step` (from 0) of `total` is one of them.
    pub fn contains(&self, step: usize, total: usize) -> bool {
        match *self {
            Self::Numbers { first, last } => (first..=last).contains(&(step + 1)),
            Self::Percent { from, to } => {
                let (at, whole) = (100.0 * step as f64, total as f64);
                from * whole <= at && at < to * whole
            }
        }
    }

    /// Whether both may hold a step, in a run of whatever length.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        match (*self, *other) {
            (
                Self::Numbers { first, last },
                Self::Numbers {
                    first: other_first,
                    last: other_last,
                },
            ) => first <= other_last && other_first <= last,
            (
                Self::Percent { from, to },
                Self::Percent {
                    from: other_from,
                    to: other_to,
                },
            ) => from < other_to && other_from < to,
            _ => true,
        }
    }

    /// What is behind `steps.`.
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(text) = text.strip_suffix('%') {
            let (from, to) = text.split_once('-').ok_or("a share has two ends")?;
            let percent = |text: &str| text.trim_end_matches('%').parse::<f64>().ok();
            let ends = (percent(from), percent(to));
            let (Some(from), Some(to)) = ends else {
                return Err("an end is no number");
            };
            return match from < to && from >= 0.0 && to <= 100.0 {
                true => Ok(Self::Percent { from, to }),
                false => Err("a share goes up, from 0 to 100"),
            };
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<usize>().ok();
        let ends = (number(first), number(last));
        let (Some(first), Some(last)) = ends else {
            return Err("an end is no number");
        };
        match 1 <= first && first <= last {
            true => Ok(Self::Numbers { first, last }),
            false => Err("numbers of steps go up, from 1"),
        }
    }
}

impl fmt::Display for StepScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers { first, last } if first == last => write!(f, "steps.{first}"),
            Self::Numbers { first, last } => write!(f, "steps.{first}-{last}"),
            Self::Percent { from, to } => write!(f, "steps.{from}-{to}%"),
        }
    }
}

impl LoraStages {
    fn parse(part: &str) -> Option<Self> {
        match part {
            "first" => Some(Self::First),
            "refine" => Some(Self::Refine),
            "first,refine" | "refine,first" => Some(Self::Both),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Refine => "refine",
            Self::Both => "first,refine",
        }
    }
}

impl LoraScope {
    /// Narrows the scope by a part, without its `@`.
    ///
    /// # Errors
    /// [`ParseScopeError`] quotes the part; nothing changes then.
    pub fn and(&mut self, part: &str) -> Result<(), ParseScopeError> {
        let once = |said: bool, what| match said {
            true => Err(ParseScopeError::Twice {
                part: part.into(),
                what,
            }),
            false => Ok(()),
        };
        if let Some(steps) = part.strip_prefix("steps") {
            let text = steps.strip_prefix('.').unwrap_or_default();
            let steps = StepScope::parse(text).map_err(|reason| ParseScopeError::Steps {
                part: part.into(),
                reason,
            })?;
            once(self.steps.is_some(), "steps")?;
            self.steps = Some(steps);
            return Ok(());
        }
        if let Some(stages) = LoraStages::parse(part) {
            once(self.stages.is_some(), "stages")?;
            self.stages = Some(stages);
            return Ok(());
        }
        self.layers
            .and(part)
            .map_err(|cause| ParseScopeError::Place {
                part: part.into(),
                cause,
            })
    }

    /// Whether it acts on every layer in every step, in the stages of its kind.
    pub fn is_everywhere(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for LoraScope {
    type Err = ParseScopeError;

    /// Parts with `@` in front of each; nothing is everywhere and always.
    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        let mut scope = Self::default();
        if !text.is_empty() {
            let parts = text.strip_prefix('@').unwrap_or(text);
            parts.split('@').try_for_each(|part| scope.and(part))?;
        }
        Ok(scope)
    }
}

impl fmt::Display for LoraScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.layers)?;
        if let Some(steps) = &self.steps {
            write!(f, "@{steps}")?;
        }
        match self.stages {
            Some(stages) => write!(f, "@{}", stages.name()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for text in [
            "",
            "@attn",
            "@blocks.10-30@attn,ffn",
            "@steps.0-50%",
            "@steps.12.5-100%",
            "@steps.1-8",
            "@steps.3@refine",
            "@blocks.{i}.ffn.w1@steps.50-100%@first,refine",
        ] {
            assert_eq!(text.parse::<LoraScope>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_quote_the_part() {
        for (text, words) in [
            ("@", "@: \"\" lacks a name"),
            (
                "@attn@blocks.9-3",
                "@blocks.9-3: \"blocks.9-3\": the range 9-3",
            ),
            ("@steps", "@steps: an end is no number; steps are"),
            ("@steps.50-20%", "@steps.50-20%: a share goes up"),
            ("@steps.0-101%", "from 0 to 100"),
            ("@steps.50%", "@steps.50%: a share has two ends"),
            ("@steps.0-3", "@steps.0-3: numbers of steps go up, from 1"),
            (
                "@steps.1-4@steps.6-8",
                "@steps.6-8: another part says already which steps",
            ),
            (
                "@first@refine",
                "@refine: another part says already which stages",
            ),
            ("@attn,first,", "@attn,first,: "),
        ] {
            let error = text.parse::<LoraScope>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn shares_that_meet_divide_the_steps() {
        let parse = |text: &str| StepScope::parse(text).unwrap();
        for (scope, total, steps) in [
            ("0-50%", 5, &[0, 1, 2][..]),
            ("50-100%", 5, &[3, 4]),
            ("0-50%", 4, &[0, 1]),
            ("50-100%", 4, &[2, 3]),
            ("2-3", 5, &[1, 2]),
            ("5", 5, &[4]),
            ("6-9", 5, &[]),
        ] {
            let scope = parse(scope);
            let found: Vec<usize> = (0..total).filter(|s| scope.contains(*s, total)).collect();
            assert_eq!(found, steps, "{scope}");
        }
        for (a, b, meet) in [
            ("0-50%", "50-100%", false),
            ("0-50%", "49-60%", true),
            ("1-3", "4-5", false),
            ("1-3", "3", true),
            ("1-3", "50-100%", true),
        ] {
            assert_eq!(parse(a).meets(&parse(b)), meet, "{a} {b}");
            assert_eq!(parse(b).meets(&parse(a)), meet, "{b} {a}");
        }
    }
}
