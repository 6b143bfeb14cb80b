//! The part of a list that a process makes, by its number among several.

use std::fmt;
use std::str::FromStr;

use longcat_train::{RankError, RankPlace};

/// Every `count`-th line, from the one of index `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub count: usize,
}

/// `--shard`: I/N, or N alone for the number that the environment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardArg {
    Shard(Shard),
    /// One of so many.
    Of(usize),
}

/// Why a process has no part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    #[error("{0:?} is neither I/N, as 0/8, nor a number of parts")]
    Form(String),
    #[error("{index} of {count}: parts are counted from 0, and the last one is {}", .count.saturating_sub(1))]
    Beyond { index: usize, count: usize },
    #[error("{name}={value} is no number")]
    Variable { name: &'static str, value: String },
    #[error(transparent)]
    Rank(#[from] RankError),
    #[error(
        "the tasks of this Slurm array are not numbered evenly ({id} from {min}, {count} in all); say \
         --shard I/N, or --claim"
    )]
    Uneven { id: usize, min: usize, count: usize },
    #[error(
        "JOB_COMPLETION_INDEX says which part this process is to make, and nothing says of how many: add \
         --shard N with the completions of the job, or --claim"
    )]
    NoCount,
    #[error(
        "RANK says which part this process is to make, and WORLD_SIZE, which is to say of how many, is not \
         set: set it, or add --shard N, or --claim"
    )]
    NoWorldSize,
    #[error(
        "--shard {0} says how many parts there are; which one this is neither SLURM_ARRAY_TASK_ID nor \
         RANK nor JOB_COMPLETION_INDEX say: give I/{0}"
    )]
    NoIndex(usize),
}

impl FromStr for ShardArg {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let form = || ShardError::Form(text.to_string());
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| form());
        match text.split_once('/') {
            Some((index, count)) => Ok(Self::Shard(Shard::new(number(index)?, number(count)?)?)),
            None => match number(text)? {
                0 => Err(form()),
                count => Ok(Self::Of(count)),
            },
        }
    }
}

impl Shard {
    pub fn new(index: usize, count: usize) -> Result<Self, ShardError> {
        match index < count {
            true => Ok(Self { index, count }),
            false => Err(ShardError::Beyond { index, count }),
        }
    }

    /// The part of this process, and what says so, if there are parts: what was asked for, else what Slurm,
    /// `torchrun` or Kubernetes say. `variable` is the environment.
    pub fn find(
        asked: Option<ShardArg>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<(Self, &'static str)>, ShardError> {
        let number = |name: &'static str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value.map_or(Ok(None), |value| match value.trim().parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ShardError::Variable { name, value }),
            })
        };
        let of = match asked {
            Some(ShardArg::Shard(shard)) => return Ok(Some((shard, "--shard"))),
            Some(ShardArg::Of(count)) => Some(count),
            None => None,
        };
        let array = number("SLURM_ARRAY_TASK_ID")?;
        let rank = RankPlace::number(&variable)?;
        let completion = number("JOB_COMPLETION_INDEX")?;
        let array = match array {
            None => None,
            Some(id) => {
                let min = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
                let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
                let count = number("SLURM_ARRAY_TASK_COUNT")?.or(of).unwrap_or(1);
                let index = id.saturating_sub(min) / step;
                let even = id >= min && (id - min) % step == 0 && index < count;
                match even {
                    true => Some(Self { index, count }),
                    false => return Err(ShardError::Uneven { id, min, count }),
                }
            }
        };
        let ranks = match rank {
            None => None,
            Some((rank, size)) => {
                let count = size.or(of).ok_or(ShardError::NoWorldSize)?;
                Some(Self::new(rank, count)?)
            }
        };
        Ok(match (array, ranks, completion) {
            // Every task of the array starts as many ranks.
            (Some(array), Some(ranks), _) => Some((
                Self {
                    index: array.index * ranks.count + ranks.index,
                    count: array.count * ranks.count,
                },
                "SLURM_ARRAY_TASK_ID and RANK",
            )),
            (Some(array), None, _) => Some((array, "SLURM_ARRAY_TASK_ID")),
            (None, Some(ranks), _) => Some((ranks, "RANK")),
            (None, None, Some(index)) => {
                let count = of.ok_or(ShardError::NoCount)?;
                Some((Self::new(index, count)?, "JOB_COMPLETION_INDEX"))
            }
            (None, None, None) => match of {
                Some(count) => return Err(ShardError::NoIndex(count)),
                None => None,
            },
        })
    }

    /// Whether the line of this index is in the part.
    pub fn has(self, line: usize) -> bool {
        line % self.count == self.index
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(
        asked: &str,
        variables: &[(&str, &str)],
    ) -> Result<Option<(Shard, &'static str)>, ShardError> {
        let asked = (!asked.is_empty())
            .then(|| asked.parse::<ShardArg>())
            .transpose()?;
        Shard::find(asked, |name| {
            let mut all = variables.iter();
            let found = all.find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn the_part_is_what_was_asked_for_or_what_the_environment_says() {
        let slurm = |id| {
            [
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", "1"),
                ("SLURM_ARRAY_TASK_COUNT", "4"),
                ("SLURM_ARRAY_TASK_STEP", "2"),
            ]
        };
        let ranks = [("RANK", "1"), ("WORLD_SIZE", "2")];
        let both = [&slurm("7")[..], &ranks].concat();
        for (asked, variables, part, from) in [
            ("3/8", &slurm("5")[..], (3, 8), "--shard"),
            ("", &slurm("5"), (2, 4), "SLURM_ARRAY_TASK_ID"),
            ("", &ranks, (1, 2), "RANK"),
            ("", &both, (7, 8), "SLURM_ARRAY_TASK_ID and RANK"),
            (
                "5",
                &[("JOB_COMPLETION_INDEX", "4")],
                (4, 5),
                "JOB_COMPLETION_INDEX",
            ),
        ] {
            let (index, count) = part;
            let expected = Some((Shard { index, count }, from));
            assert_eq!(
                found(asked, variables),
                Ok(expected),
                "{asked} {variables:?}"
            );
        }
        assert_eq!(found("", &[]), Ok(None));
        let all = [0, 1, 2].map(|index| Shard { index, count: 3 });
        for line in 0..10 {
            assert_eq!(all.iter().filter(|shard| shard.has(line)).count(), 1);
        }
    }

    #[test]
    fn what_does_not_say_a_part_is_refused() {
        for (asked, variables, word) in [
            ("8/8", &[][..], "the last one is 7"),
            ("0", &[], "neither"),
            ("a/b", &[], "a/b"),
            ("4", &[], "I/4"),
            ("", &[("JOB_COMPLETION_INDEX", "4")], "--shard N"),
            ("", &[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK: \"x\""),
            ("", &[("RANK", "1")], "WORLD_SIZE"),
            (
                "",
                &[
                    ("SLURM_ARRAY_TASK_ID", "9"),
                    ("SLURM_ARRAY_TASK_COUNT", "4"),
                ],
                "9 from 0",
            ),
        ] {
            let error = found(asked, variables).unwrap_err().to_string();
            assert!(error.contains(word), "{asked} {variables:?}: {error}");
        }
    }
}
