//! The clips that a configuration names, and what to do with broken ones.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::scan::scan;
use super::{CaptionedClip, Ignored};
use crate::config::{DataConfig, TrainConfig};
use crate::{TrainError, TrainObserver};

/// Clips to train on, and what lies beside them.
#[derive(Debug, Clone, Default)]
pub struct FoundClips {
    /// The clips, with their captions.
    pub clips: Vec<CaptionedClip>,
    /// What is not used, and why.
    pub ignored: Vec<Ignored>,
}

impl TrainConfig {
    /// The clips of a folder or list, with their captions; `key` is the setting that names it. What
    /// this run writes is not searched. Broken clips are dealt with as [`DataConfig::skip`] does, and
    /// clips without caption are broken unless all captions are dropped.
    ///
    /// # Errors
    /// [`TrainError::Io`]; [`TrainError::Data`] names a clip or line; [`TrainError::Config`] where there
    /// is no clip; [`TrainError::Interrupted`].
    pub fn find_clips(
        &self,
        key: &str,
        path: &Path,
        observer: &mut dyn TrainObserver,
        interrupt: &AtomicBool,
    ) -> Result<FoundClips, TrainError> {
        let root = path.canonicalize();
        let mut without = Vec::new();
        for name in ["", "samples", "checkpoints"] {
            without.extend(self.output.join(name).canonicalize());
        }
        without.extend(self.cache.path.canonicalize());
        // Clips may lie beside what a run writes, and even be what one wrote.
        without.retain(|folder| root.as_ref().is_ok_and(|root| folder != root));
        let found = scan(path, &without, interrupt)?;
        for problem in found.problems {
            self.data.skip(problem, observer)?;
        }
        let mut clips = Vec::with_capacity(found.clips.len());
        for clip in found.clips {
            if self.caption_dropout < 1.0 && clip.captions.iter().any(String::is_empty) {
                let reason = "it has no caption, or an empty one; write one (beside clip.mp4 into \
                              clip.txt), or train without any by objective.caption_dropout = 1.0";
                let problem = TrainError::Data {
                    path: clip.path,
                    reason: reason.into(),
                };
                self.data.skip(problem, observer)?;
            } else {
                clips.push(clip);
            }
        }
        self.some_clip(key, path, clips.iter().map(|clip| clip.repeats))?;
        let ignored = found.ignored;
        Ok(FoundClips { clips, ignored })
    }

    /// An error if no clip of `path`, which `key` names, is left. `repeats` are how often each comes in
    /// an epoch.
    ///
    /// # Errors
    /// [`TrainError::Config`].
    pub fn some_clip(
        &self,
        key: &str,
        path: &Path,
        mut repeats: impl Iterator<Item = usize>,
    ) -> Result<(), TrainError> {
        if repeats.any(|repeats| repeats > 0) {
            return Ok(());
        }
        Err(self.problem(key, format!("no clip in {}", path.display())))
    }
}

impl DataConfig {
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
