//! Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::note;

/// A flag that Ctrl-C sets, and whatever asks the process to end (SIGTERM): work ends at its next
/// step. A second time ends the process. All work of a process has the same flag.
///
/// # Errors
/// If the handler cannot be installed; a process has one.
pub fn interrupt() -> Result<Arc<AtomicBool>> {
    static INSTALLED: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(flag) = &*installed {
        return Ok(flag.clone());
    }
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        note!("stopping after this step; press Ctrl-C again to stop at once");
    })
    .context("installing the Ctrl-C handler")?;
    Ok(installed.insert(flag).clone())
}
