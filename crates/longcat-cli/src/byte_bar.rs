//! Progress of a file that is written.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes on standard error, and Ctrl-C.
pub struct ByteBar {
    bar: ProgressBar,
    interrupt: Arc<AtomicBool>,
}

impl ByteBar {
    /// # Errors
    /// As [`longcat_cli::interrupt`].
    pub fn new() -> Result<Self> {
        let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Ok(Self {
            bar: ProgressBar::no_length().with_style(style),
            interrupt: longcat_cli::interrupt()?,
        })
    }

    /// Bytes that are written, of all; says whether to go on.
    pub fn wrote(&self, done: u64, total: u64) -> ControlFlow<()> {
        self.bar.set_length(total);
        self.bar.set_position(done);
        match self.interrupt.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Clears the bar; gives the number of bytes, where it was told.
    pub fn finish(&self) -> Option<u64> {
        self.bar.finish_and_clear();
        self.bar.length()
    }
}
