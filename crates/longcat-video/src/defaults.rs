//! What a checkpoint makes where a request leaves size, frames or condition frames open.

use std::path::Path;

use longcat_dit::DitConfig;
use longcat_weights::{ConfigError, JsonConfig};
use serde::Deserialize;

use crate::buckets::{Resolution, bucket, sizes_480};
use crate::{VideoError, VideoSize};

/// A file of the checkpoint directory. The released checkpoint has none.
const FILE: &str = "longcat.json";

/// Which sizes a model was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainedSizes {
    /// Buckets by aspect ratio, of about 480 × 832 pixels, and 720 × 1280 refined.
    Buckets,
    /// One size, and twice its sides refined.
    Fixed,
}

/// Size, length and rate of a checkpoint's videos.
///
/// They are those of the release, 93 frames of 832 × 480 at 15 frames per second with 13 condition
/// frames (or those of the built-in miniature, for a transformer of less than a hundredth of the
/// release's weights), unless a `longcat.json` in the checkpoint directory says otherwise:
///
/// ```json
/// { "size": "64x64", "sizes": "fixed", "frames": 17, "fps": 15.0, "cond_frames": 5 }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoDefaults {
    /// Size of a video that no picture gives its shape.
    pub size: VideoSize,
    /// Which sizes the model was trained on.
    pub sizes: TrainedSizes,
    /// Frames per video, 4n + 1.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// Condition frames of a continuation, 4n + 1.
    pub cond_frames: usize,
}

impl VideoDefaults {
    const RELEASED: Self = Self {
        size: VideoSize::new(832, 480),
        sizes: TrainedSizes::Buckets,
        frames: 93,
        fps: 15.0,
        cond_frames: 13,
    };

    /// Those of the built-in miniature, for models as small.
    const SMALL: Self = Self {
        size: VideoSize::new(64, 64),
        sizes: TrainedSizes::Fixed,
        frames: 17,
        fps: 15.0,
        cond_frames: 5,
    };

    /// The defaults of the checkpoint in `root`, whose transformer is `config` if that is known.
    pub(crate) fn of_checkpoint(
        root: &Path,
        config: Option<&DitConfig>,
    ) -> Result<Self, ConfigError> {
        let path = root.join(FILE);
        if !path.exists() {
            return Ok(match config.is_some_and(is_small) {
                true => Self::SMALL,
                false => Self::RELEASED,
            });
        }
        let mut keys = JsonConfig::read(&path)?;
        let size: String = keys.take("size")?;
        let defaults = Self {
            size: size
                .parse()
                .map_err(|e| keys.invalid("size", &size, format!("{e}")))?,
            sizes: keys.take("sizes")?,
            frames: keys.take("frames")?,
            fps: keys.take("fps")?,
            cond_frames: keys.take("cond_frames")?,
        };
        keys.finish()?;
        let VideoSize { width, height } = defaults.size;
        keys.check_positive(&[
            ("size", width),
            ("size", height),
            ("frames", defaults.frames),
            ("cond_frames", defaults.cond_frames),
        ])?;
        if !(defaults.fps.is_finite() && defaults.fps > 0.0) {
            return Err(keys.invalid("fps", defaults.fps, "it must be positive"));
        }
        Ok(defaults)
    }

    /// The size of a video that begins with a picture of size `given`: that of the trained sizes
    /// which is nearest in shape.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] for a picture without pixels.
    pub fn size_for(&self, given: VideoSize) -> Result<VideoSize, VideoError> {
        match self.sizes {
            TrainedSizes::Buckets => bucket(Resolution::P480, given, 16),
            TrainedSizes::Fixed => Ok(self.size),
        }
    }

    /// The sizes that the model was trained on, unrefined, from wide to high.
    pub fn all_sizes(&self) -> Vec<VideoSize> {
        match self.sizes {
            TrainedSizes::Buckets => sizes_480(),
            TrainedSizes::Fixed => vec![self.size],
        }
    }

    /// The size that a video of size `given` is refined to.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] for a video without pixels.
    pub fn refined_size_for(&self, given: VideoSize) -> Result<VideoSize, VideoError> {
        match self.sizes {
            TrainedSizes::Buckets => bucket(Resolution::P720, given, 64),
            TrainedSizes::Fixed => Ok(VideoSize::new(2 * given.width, 2 * given.height)),
        }
    }
}

/// Whether a transformer is too small to have been trained on 480p: it has less than a hundredth of
/// the weights of the release.
fn is_small(config: &DitConfig) -> bool {
    let weights = |depth: usize, hidden: usize| depth as f64 * (hidden as f64).powi(2);
    weights(config.depth, config.hidden_size) < 0.01 * weights(48, 4096)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_checkpoint_without_the_file_is_like_the_release() {
        let dir = tempfile::tempdir().unwrap();
        let released = DitConfig::default();
        for config in [None, Some(&released)] {
            let defaults = VideoDefaults::of_checkpoint(dir.path(), config).unwrap();
            assert_eq!(defaults, VideoDefaults::RELEASED);
        }
        let defaults = VideoDefaults::RELEASED;
        assert_eq!(defaults.size.to_string(), "832x480");
        assert_eq!((defaults.frames, defaults.cond_frames), (93, 13));
        let size = |width, height| VideoSize::new(width, height);
        assert_eq!(defaults.size_for(size(1080, 1920)).unwrap(), size(480, 832));
        // Every size is that of the pictures of its shape.
        for size in defaults.all_sizes() {
            assert_eq!(defaults.size_for(size).unwrap(), size);
        }
        assert_eq!(
            defaults.refined_size_for(size(832, 480)).unwrap(),
            size(1280, 704)
        );
    }

    #[test]
    fn a_small_checkpoint_without_the_file_is_like_the_miniature() {
        let dir = tempfile::tempdir().unwrap();
        let small = DitConfig {
            depth: 6,
            hidden_size: 192,
            ..DitConfig::default()
        };
        let defaults = VideoDefaults::of_checkpoint(dir.path(), Some(&small)).unwrap();
        assert_eq!(
            (defaults.size.to_string().as_str(), defaults.frames),
            ("64x64", 17)
        );
    }

    #[test]
    fn a_checkpoint_says_what_it_makes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join(FILE), text).unwrap();
        let read = || VideoDefaults::of_checkpoint(dir.path(), None);
        write(
            r#"{"size": "64x48", "sizes": "fixed", "frames": 17, "fps": 12.5, "cond_frames": 5}"#,
        );
        let defaults = read().unwrap();
        let size = VideoSize::new(64, 48);
        assert_eq!((defaults.size, defaults.fps), (size, 12.5));
        assert_eq!(defaults.size_for(VideoSize::new(1, 9)).unwrap(), size);
        assert_eq!(
            defaults.refined_size_for(size).unwrap(),
            VideoSize::new(128, 96)
        );
        for (text, named) in [
            (r#"{"size": "64"}"#, "size"),
            (
                r#"{"size": "64x64", "sizes": "any", "frames": 17, "fps": 15, "cond_frames": 5}"#,
                "sizes",
            ),
            (
                r#"{"size": "64x64", "sizes": "fixed", "frames": 0, "fps": 15, "cond_frames": 5}"#,
                "frames",
            ),
            (
                r#"{"size": "64x64", "sizes": "fixed", "frames": 17, "fps": 0, "cond_frames": 5}"#,
                "fps",
            ),
            (
                r#"{"size": "64x64", "sizes": "fixed", "frames": 1, "fps": 1, "cond_frames": 1, "x": 1}"#,
                "x",
            ),
        ] {
            write(text);
            let message = read().unwrap_err().to_string();
            assert!(
                message.contains(FILE) && message.contains(named),
                "{message}"
            );
        }
    }
}
