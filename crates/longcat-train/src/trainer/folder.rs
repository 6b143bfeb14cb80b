//! The output folder of a run, which only one run writes to at a time.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};

use super::resume::compatible;
use super::state::newest_position;
use crate::TrainError;
use crate::config::TrainConfig;

/// The file that is locked. It stays when the run ends; the lock does not, even if it is killed.
const LOCK: &str = ".lock";

/// The output folder of a run, as long as no other run may write to it.
#[derive(Debug)]
pub struct OutputFolder {
    /// Locked until it is closed.
    _lock: File,
}

impl OutputFolder {
    /// Makes the folder, takes it, and checks that its newest checkpoint can be continued.
    ///
    /// # Errors
    /// [`TrainError::Busy`] while another run has it; [`TrainError::State`] for a checkpoint of other
    /// settings; [`TrainError::Io`].
    pub fn claim(config: &TrainConfig) -> Result<Self, TrainError> {
        let folder = &config.output;
        std::fs::create_dir_all(folder).map_err(|e| TrainError::io(folder, e))?;
        let path = folder.join(LOCK);
        let io = |e| TrainError::io(&path, e);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).map_err(io)?;
                write!(file, "{}", std::process::id()).map_err(io)?;
            }
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).unwrap_or_default();
                let holder = match holder.trim() {
                    "" => String::new(),
                    process => format!(" (process {process})"),
                };
                return Err(TrainError::Busy {
                    path: folder.clone(),
                    holder,
                });
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        if let Some((folder, position)) = newest_position(&config.checkpoint_dir())? {
            compatible(config, &position, &folder)?;
        }
        Ok(Self { _lock: file })
    }
}
