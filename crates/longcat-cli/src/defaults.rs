//! Size, frames and rate when the command line says nothing.

use std::path::Path;

use longcat_video::{Resolution, VideoError, VideoSize, bucket};

/// What is made when the command line says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub size: VideoSize,
    pub frames: usize,
    pub fps: f64,
    pub cond_frames: usize,
    built_in: bool,
}

const RELEASED: Defaults = Defaults {
    size: VideoSize::new(832, 480),
    frames: 93,
    fps: 15.0,
    cond_frames: 13,
    built_in: false,
};

const BUILT_IN: Defaults = Defaults {
    size: VideoSize::new(64, 64),
    frames: 17,
    fps: 15.0,
    cond_frames: 5,
    built_in: true,
};

impl Defaults {
    pub fn of(model: Option<&Path>) -> Self {
        match model {
            Some(_) => RELEASED,
            None => BUILT_IN,
        }
    }

    /// The size a picture is brought to: the bucket nearest in shape. The built-in model has one size.
    pub fn size_for(&self, given: VideoSize) -> Result<VideoSize, VideoError> {
        match self.built_in {
            true => Ok(self.size),
            false => bucket(Resolution::P480, given, 16),
        }
    }

    /// The refined size: twice that of the built-in model, or the 720p bucket.
    pub fn refined_size_for(&self, given: VideoSize) -> Result<VideoSize, VideoError> {
        match self.built_in {
            true => Ok(VideoSize::new(2 * given.width, 2 * given.height)),
            false => bucket(Resolution::P720, given, 64),
        }
    }
}
