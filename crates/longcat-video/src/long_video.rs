//! Long videos: finished segments on disk, so that a stopped run goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use longcat_weights::{NamedTensor, WeightFiles, write_atomic, write_safetensors};

use crate::frames::PixelFrames;
use crate::{VideoError, VideoSize};

const SETTINGS: &str = "settings.txt";
const KEY: &str = "frames";

/// The folder of a long video's finished segments.
///
/// Every segment is conditioned on the frames that were kept of the one before it, so a resumed run
/// and an uninterrupted one give the same video. Memory does not grow with the number of segments.
#[derive(Debug, Clone)]
pub struct LongVideo {
    dir: PathBuf,
}

impl LongVideo {
    /// Opens the folder, or makes it.
    ///
    /// `settings` describes everything that the segments depend on.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] when the folder holds segments of other settings;
    /// [`VideoError::Io`].
    pub fn open(dir: &Path, settings: &str) -> Result<Self, VideoError> {
        fs::create_dir_all(dir).map_err(|e| VideoError::io(dir, e))?;
        let file = dir.join(SETTINGS);
        match fs::read_to_string(&file) {
            Ok(found) if found == settings => {}
            Ok(_) => {
                return Err(VideoError::invalid(
                    "work dir",
                    format!(
                        "{} holds segments of a video with other settings; remove it or name \
                         another folder",
                        dir.display()
                    ),
                ));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_atomic(&file, settings.as_bytes())?;
            }
            Err(error) => return Err(VideoError::io(file, error)),
        }
        Ok(Self {
            dir: dir.to_path_buf(),
        })
    }

    fn file(&self, index: usize) -> PathBuf {
        self.dir.join(format!("segment-{index:04}.safetensors"))
    }

    /// Whether a segment is finished. Files appear under their name only when they are whole.
    pub fn has(&self, index: usize) -> bool {
        self.file(index).is_file()
    }

    /// Keeps a finished segment.
    ///
    /// # Errors
    /// [`VideoError::Weights`] when it cannot be written.
    pub fn keep(&self, index: usize, clip: &PixelFrames) -> Result<(), VideoError> {
        let VideoSize { width, height } = clip.size();
        let data = TensorData::new(clip.as_bytes().to_vec(), [clip.len(), height, width, 3]);
        let tensor = NamedTensor {
            name: KEY.into(),
            data,
        };
        write_safetensors(&self.file(index), &[tensor], &BTreeMap::new())?;
        Ok(())
    }

    /// A finished segment.
    ///
    /// # Errors
    /// [`VideoError::Weights`] when it is not there or damaged.
    pub fn read(&self, index: usize) -> Result<PixelFrames, VideoError> {
        let path = self.file(index);
        let files = WeightFiles::open(&path)?;
        let shape = files.info(KEY).map(|i| i.shape).unwrap_or_default();
        let size = match shape[..] {
            [_, height, width, 3] => VideoSize { width, height },
            _ => {
                return Err(VideoError::Contents {
                    path,
                    reason: format!("frames have shape {shape:?}, not [F, H, W, 3]"),
                });
            }
        };
        PixelFrames::from_bytes(files.bytes(KEY)?.into_owned(), size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn segments_come_back_and_other_settings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let long = LongVideo::open(&work, "a").unwrap();
        let size = VideoSize {
            width: 2,
            height: 1,
        };
        let clip = PixelFrames::from_bytes((0..18).collect(), size).unwrap();
        assert!(!long.has(0));
        long.keep(0, &clip).unwrap();

        let again = LongVideo::open(&work, "a").unwrap();
        assert!(again.has(0) && !again.has(1));
        assert_eq!(again.read(0).unwrap(), clip);
        let error = LongVideo::open(&work, "b").unwrap_err().to_string();
        assert!(
            error.contains("work") && error.contains("other settings"),
            "{error}"
        );
    }
}
