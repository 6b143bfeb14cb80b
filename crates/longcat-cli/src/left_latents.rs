//! Latents that an earlier run of the same request has finished, and was cut off while it decoded them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use longcat_video::{FrameRange, Latents, Settings};

use crate::session::{Job, Session};

impl Session {
    /// The latents of the first pass, if they are there and are to be taken up.
    pub fn left_latents(&mut self, job: &Job) -> Option<Latents> {
        let path = self.save_latents.as_ref().filter(|_| self.resumes)?;
        let latents = left(path, &job.latents)?;
        // They stay in their file: those of a further pass are others.
        self.bar.keep_latents(None, None);
        Some(latents)
    }

    /// The latents of refining, and which frames of their video count.
    pub fn left_refined(&self, job: &Job) -> Option<(Latents, FrameRange)> {
        let path = self.save_latents.as_ref().filter(|_| self.resumes)?;
        let settings = job.refined.as_ref()?;
        let latents = left(&refined_beside(path), settings)?;
        let range = FrameRange::new(settings.first_frame, settings.frames);
        Some((latents, range))
    }

    /// Keeps the latents of refining until they are decoded.
    pub fn keep_refined(&self, latents: &Latents, job: &Job) -> Result<()> {
        let path = self.save_latents.as_ref().filter(|_| self.resumes);
        if let (Some(path), Some(settings)) = (path, &job.refined) {
            latents.write_with(&refined_beside(path), Some(settings))?;
        }
        Ok(())
    }
}

/// The file of refined latents beside that of the first pass.
pub fn refined_beside(latents: &Path) -> PathBuf {
    latents.with_extension("refined.safetensors")
}

/// The latents of a file, if they were made with these settings.
fn left(path: &Path, settings: &Settings) -> Option<Latents> {
    let found = Latents::read_settings(path).ok()??;
    let same = request(&found) == request(settings);
    same.then(|| Latents::read(path).ok()).flatten()
}

/// What was asked for: passes that were left out are counted while latents are made, and another device may
/// go on.
fn request(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    settings.device.clear();
    let stages = [&mut settings.generation, &mut settings.refinement];
    for stage in stages.into_iter().flatten() {
        stage.cache = None;
    }
    settings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use longcat_video::{StageSettings, UsedCache};

    #[test]
    fn latents_of_the_same_request_are_found_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a.safetensors");
        let header = br#"{"latents":{"dtype":"F32","shape":[1,1,1,2,2],"data_offsets":[0,16]}}   "#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
        std::fs::write(&source, bytes).unwrap();
        let latents = Latents::read(&source).unwrap();
        let path = refined_beside(&source);
        assert_eq!(path, dir.path().join("a.refined.safetensors"));
        let asked = Settings {
            seed: 3,
            device: "cuda:0".into(),
            generation: Some(StageSettings::default()),
            ..Settings::new("t2v")
        };
        assert!(left(&path, &asked).is_none());
        latents.write_with(&path, Some(&asked)).unwrap();
        let cache = Some(UsedCache::default());
        let same = Settings {
            device: "cuda:1".into(),
            generation: Some(StageSettings {
                cache,
                ..StageSettings::default()
            }),
            ..asked.clone()
        };
        assert_eq!(left(&path, &same), Some(latents));
        let other = Settings { seed: 4, ..asked };
        assert!(left(&path, &other).is_none());
        std::fs::write(&path, b"cut").unwrap();
        assert!(left(&path, &same).is_none());
    }
}
