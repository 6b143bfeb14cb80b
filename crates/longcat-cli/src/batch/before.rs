//! What a process knows that takes the place of another one, whose device failed.

use std::path::Path;

use anyhow::{Result, bail};
use longcat_cli::note;
use serde::{Deserialize, Serialize};

use crate::successor;

/// The variable that tells it.
const BEFORE: &str = "LONGCAT_BATCH_BEFORE";

/// What the processes before this one did for the same command.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Before {
    /// Theirs and this one's: what is told to another process is not meant for this one.
    pub pid: u32,
    /// Bytes of the results when the first of them began.
    pub begun: u64,
    /// Lines that they made.
    pub made: usize,
    /// Failures of the device since the last video.
    pub device_failures: usize,
    /// Whether several lines at once were too much.
    pub alone: bool,
}

impl Before {
    /// What the process before this one says, if there was one.
    pub fn find() -> Option<Self> {
        let text = std::env::var(BEFORE).ok()?;
        let before: Self = serde_json::from_str(&text).ok()?;
        (before.pid == std::process::id()).then_some(before)
    }

    /// Lets a new process go on with a list. Returns only where that fails.
    pub fn go_on(mut self, list: &Path) -> Result<()> {
        self.pid = std::process::id();
        if !list.is_file() {
            bail!(
                "the device failed, and {} is no file that a new process could read again; the same \
                 command goes on with the lines that are left",
                list.display()
            );
        }
        let text = serde_json::to_string(&self)?;
        note!("the device failed: a new process goes on with the lines that are left");
        let failed = successor::take_over(|command| {
            command.env(BEFORE, text);
        });
        Err(failed.context("the same command goes on with the lines that are left"))
    }
}
