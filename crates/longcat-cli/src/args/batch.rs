//! Arguments of `longcat batch`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::Value;

use super::Place;
use crate::batch::ShardArg;

/// A key that lines without it have, with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    pub key: String,
    pub value: Value,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(format!("{text:?} is no KEY=VALUE, as steps=8"));
        };
        let value = serde_json::from_str(value);
        Ok(Self {
            key: key.to_string(),
            value: value.unwrap_or_else(|_| Value::from(&text[key.len() + 1..])),
        })
    }
}

#[derive(Debug, Args)]
pub struct Batch {
    /// Requests, one in each line, as objects of JSON: {"prompt": "a red circle", "seed": 3}.
    ///
    /// Keys are the options of t2v, i2v, continue, long and refine, with _ for -, and their arguments: prompt,
    /// and image or video, which make it i2v or continue, or prompts, which make it long; "command": "refine"
    /// refines a video. "output" names the result in the folder of results. Paths begin at the folder of the
    /// list. docs/scaling.md has the whole.
    pub list: PathBuf,
    /// Folder of the results: videos, and results.jsonl, which says what was made of each line.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// A key for all lines that do not have it and whose command takes it; may be repeated. The value is JSON,
    /// or else a text.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Setting>,
    /// Make part I of N, counted from 0; N alone takes the number from the environment. Without it what
    /// SLURM_ARRAY_TASK_ID, or RANK and WORLD_SIZE, say.
    #[arg(long, value_name = "I/N", conflicts_with = "claim")]
    pub shard: Option<ShardArg>,
    /// Share all lines with whatever other processes work on them, also where the environment numbers this
    /// one. The lines of a process that was silent for so many seconds are taken over: 120 by default.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "120",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub claim: Option<u64>,
    /// Make up to so many t2v lines of one size, length and sampling at once, as many as fit with no more
    /// weights streamed than for one. The videos are then not the same to the last bit as those of single lines.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one)]
    pub together: usize,
    /// Only check all lines that are not made yet.
    #[arg(long)]
    pub check: bool,
    /// Make lines anew whose result is there and was made from another line.
    #[arg(short = 'y', long)]
    pub overwrite: bool,
    /// Leave prompt, seed, model, adapters and other settings out of the files.
    #[arg(long)]
    pub no_metadata: bool,
    /// Print the records of results.jsonl as they are written.
    #[arg(long)]
    pub json: bool,
    /// Free each network after use, so that only one is on the device at a time.
    #[arg(long)]
    pub low_memory: bool,
    #[command(flatten)]
    pub place: Place,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of lines, at least 1".into()),
        Ok(count) => Ok(count),
    }
}
