//! A long video on disk: its finished segments, so that a stopped run goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use longcat_weights::{NamedTensor, WeightFiles, write_atomic, write_safetensors};

use crate::frames::{PixelFrames, write_clips};
use crate::{VideoError, VideoSize};

const SETTINGS: &str = "settings.txt";
/// What names of segments begin with.
const SEGMENT: &str = "segment-";
/// First line of the settings. Another number where segments of before cannot be gone on with.
const HEADING: &str = "segments of a long video, format 2";
const KEY: &str = "frames";

/// The folder of a long video's finished segments.
#[derive(Debug, Clone)]
pub(crate) struct SegmentFolder {
    dir: PathBuf,
    /// What the segments depend on, as lines.
    settings: Vec<String>,
}

impl SegmentFolder {
    /// Opens the folder, or makes it.
    ///
    /// `settings` names everything that the segments depend on.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] when the folder holds segments of other settings, which it names, or of
    /// another version of this program; [`VideoError::Io`].
    pub(crate) fn open(dir: &Path, settings: &[(&str, String)]) -> Result<Self, VideoError> {
        fs::create_dir_all(dir).map_err(|e| VideoError::io(dir, e))?;
        let file = dir.join(SETTINGS);
        let lines = settings
            .iter()
            .map(|(key, value)| format!("{key}: {value}"));
        let lines: Vec<String> = lines.collect();
        match fs::read_to_string(&file) {
            Ok(found) => compare(&found, settings).map_err(|reason| {
                let dir = dir.display();
                VideoError::invalid("work dir", format!("{dir} holds segments {reason}"))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("{HEADING}\n{}\n", lines.join("\n"));
                write_atomic(&file, text.as_bytes())?;
            }
            Err(error) => return Err(VideoError::io(file, error)),
        }
        // What a run was writing that was killed. Others may write other files in the folder.
        longcat_partial::sweep_folder(dir, SEGMENT);
        Ok(Self {
            dir: dir.to_path_buf(),
            settings: lines,
        })
    }

    /// A folder in this one for what is made of its segments, which depends on what they do, too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn inner(
        &self,
        name: &str,
        settings: &[(&str, String)],
    ) -> Result<Self, VideoError> {
        let mut all = vec![("segments", self.settings.join("; "))];
        all.extend_from_slice(settings);
        Self::open(&self.dir.join(name), &all)
    }

    fn file(&self, index: usize) -> PathBuf {
        self.dir.join(format!("{SEGMENT}{index:04}.safetensors"))
    }

    /// Whether a segment is finished. Files appear under their name only when they are whole.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.file(index).is_file()
    }

    /// Keeps a finished segment.
    ///
    /// # Errors
    /// [`VideoError::Weights`] when it cannot be written.
    pub(crate) fn keep(&self, index: usize, clip: &PixelFrames) -> Result<(), VideoError> {
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
    pub(crate) fn read(&self, index: usize) -> Result<PixelFrames, VideoError> {
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

/// Compares what the file of settings says with the settings of this run.
///
/// # Errors
/// Says whose segments they are and what to do.
fn compare(found: &str, settings: &[(&str, String)]) -> Result<(), String> {
    let mut lines = found.lines();
    if lines.next() != Some(HEADING) {
        return Err(
            "that another version of this program made; finish the video with that version, or \
             remove the folder or name another one"
                .into(),
        );
    }
    let found: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(": ")).collect();
    let other: Vec<String> = settings
        .iter()
        .filter(|(key, value)| found.get(key).copied() != Some(value))
        .map(|(key, value)| {
            format!(
                "{key} {}, now {value}",
                found.get(key).unwrap_or(&"unknown")
            )
        })
        .collect();
    match other.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "of a video with other settings ({}); remove it or name another folder",
            other.join("; ")
        )),
    }
}

/// A finished long video, segment by segment in its work folder.
///
/// Made by [`Pipeline::long_video`](crate::Pipeline::long_video).
#[derive(Debug, Clone)]
pub struct LongVideo {
    folder: SegmentFolder,
    segments: usize,
    cond_frames: usize,
}

impl LongVideo {
    /// Every segment but the first begins with the last `cond_frames` frames of the one before.
    pub(crate) fn new(folder: SegmentFolder, segments: usize, cond_frames: usize) -> Self {
        Self {
            folder,
            segments,
            cond_frames,
        }
    }

    /// The folder of its segments.
    pub(crate) fn folder(&self) -> &SegmentFolder {
        &self.folder
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Frames of a segment that repeat the end of the one before it.
    pub fn cond_frames(&self) -> usize {
        self.cond_frames
    }

    /// The frames of the video, read segment by segment; what a segment repeats of the one before it
    /// is left out.
    ///
    /// # Errors
    /// [`VideoError::Weights`] for a segment that is gone or damaged.
    pub fn clips(&self) -> impl Iterator<Item = Result<PixelFrames, VideoError>> + '_ {
        (0..self.segments).map(|index| {
            let segment = self.folder.read(index)?;
            Ok(match index {
                0 => segment,
                _ => segment.tail(segment.len().saturating_sub(self.cond_frames)),
            })
        })
    }

    /// Writes the video (.mp4, .gif, .webp, or a folder of PNG files) at `fps` frames per second, one
    /// segment in memory at a time.
    ///
    /// # Errors
    /// As [`Self::clips`], and [`VideoError::Media`] as
    /// [`create_video`](longcat_media::create_video).
    pub fn write_video(&self, path: impl AsRef<Path>, fps: f64) -> Result<(), VideoError> {
        write_clips(self.clips(), path.as_ref(), fps)
    }

    /// Removes the work folder.
    ///
    /// # Errors
    /// [`VideoError::Io`].
    pub fn remove(self) -> Result<(), VideoError> {
        let dir = self.folder.dir;
        fs::remove_dir_all(&dir).map_err(|e| VideoError::io(dir, e))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn clip(bytes: std::ops::Range<u8>) -> PixelFrames {
        PixelFrames::from_bytes(bytes.collect(), VideoSize::new(2, 1)).unwrap()
    }

    #[test]
    fn segments_come_back_and_other_settings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let of = |seed: u64| [("size", "2x1".to_string()), ("seed", seed.to_string())];
        let folder = SegmentFolder::open(&work, &of(7)).unwrap();
        assert!(!folder.has(0));
        folder.keep(0, &clip(0..18)).unwrap();

        let again = SegmentFolder::open(&work, &of(7)).unwrap();
        assert!(again.has(0) && !again.has(1));
        assert_eq!(again.read(0).unwrap(), clip(0..18));
        let refused = |seed| {
            SegmentFolder::open(&work, &of(seed))
                .unwrap_err()
                .to_string()
        };
        let error = refused(8);
        for word in ["work", "other settings", "seed 7, now 8"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(!error.contains("size"), "{error}");

        // What earlier versions wrote.
        fs::write(work.join(SETTINGS), "(LongVideoRequest { .. })").unwrap();
        let error = refused(7);
        assert!(error.contains("another version"), "{error}");
    }

    #[test]
    fn repeated_frames_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let folder = SegmentFolder::open(&work, &[]).unwrap();
        folder.keep(0, &clip(0..18)).unwrap();
        folder.keep(1, &clip(12..30)).unwrap();
        let video = LongVideo::new(folder, 2, 1);
        let clips: Vec<PixelFrames> = video.clips().map(Result::unwrap).collect();
        assert_eq!(clips, [clip(0..18), clip(18..30)]);
        video.remove().unwrap();
        assert!(!work.exists());
    }
}
