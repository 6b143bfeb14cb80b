//! The clips that a configuration names, and what to do with broken ones.

use std::path::Path;

use super::{CaptionedClip, scan};
use crate::config::DataConfig;
use crate::{TrainError, TrainObserver};

impl DataConfig {
    /// The clips of a folder or list, with their captions. Broken ones are dealt with as
    /// [`Self::skip`] does.
    ///
    /// # Errors
    /// As [`scan`] and [`Self::skip`].
    pub fn find_clips(
        &self,
        path: &Path,
        observer: &mut dyn TrainObserver,
    ) -> Result<Vec<CaptionedClip>, TrainError> {
        let (clips, problems) = scan(path)?;
        for problem in problems {
            self.skip(problem, observer)?;
        }
        Ok(clips)
    }

    /// Tells the observer of a broken clip, where broken clips are to be left out.
    ///
    /// # Errors
    /// The error itself, where they are not, or where it is not about a clip.
    pub fn skip(
        &self,
        error: TrainError,
        observer: &mut dyn TrainObserver,
    ) -> Result<(), TrainError> {
        if self.skip_broken && error.is_about_a_clip() {
            observer.skipped(&error);
            return Ok(());
        }
        Err(error)
    }
}
