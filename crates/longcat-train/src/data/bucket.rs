//! The shapes that clips are brought to.

use std::fmt;

use longcat_video::VideoSize;

/// The shape that a clip is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bucket {
    /// VideoSize in pixels.
    pub size: VideoSize,
    /// Frames.
    pub frames: usize,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.size, self.frames)
    }
}

/// The bucket of a clip: the size nearest to it in shape (the first of equals) and the largest
/// frame count that it fills. `None` for a clip shorter than all counts.
pub(crate) fn choose(
    sizes: &[VideoSize],
    counts: &[usize],
    clip: VideoSize,
    frames: usize,
) -> Option<Bucket> {
    let ratio = |s: VideoSize| (s.width as f64 / s.height as f64).ln();
    let distance = |s: &VideoSize| (ratio(*s) - ratio(clip)).abs();
    let size = sizes.iter().copied().reduce(|best, s| {
        if distance(&s) < distance(&best) {
            s
        } else {
            best
        }
    })?;
    let frames = counts.iter().copied().filter(|c| *c <= frames).max()?;
    Some(Bucket { size, frames })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn size(text: &str) -> VideoSize {
        text.parse().unwrap()
    }

    #[test]
    fn a_clip_takes_the_nearest_shape_and_the_longest_count_it_fills() {
        let sizes = [size("832x480"), size("480x832"), size("640x640")];
        let counts = [93, 1, 33];
        let bucket = |clip: &str, frames| choose(&sizes, &counts, size(clip), frames);
        let expect = |s: &str, frames| {
            Some(Bucket {
                size: size(s),
                frames,
            })
        };
        assert_eq!(bucket("1920x1080", 100), expect("832x480", 93));
        assert_eq!(bucket("1080x1920", 92), expect("480x832", 33));
        assert_eq!(bucket("500x500", 1), expect("640x640", 1));
        assert_eq!(choose(&sizes, &[33], size("500x500"), 32), None);
    }
}
