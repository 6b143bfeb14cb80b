use std::fmt;
use std::str::FromStr;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once('x').and_then(|(w, h)| {
            let sides = (w.trim().parse().ok()?, h.trim().parse().ok()?);
            (sides.0 > 0 && sides.1 > 0).then_some(sides)
        });
        match sides {
            Some((width, height)) => Ok(Self { width, height }),
            None => Err(format!("{text:?} is not WIDTHxHEIGHT, as 832x480 is")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The shape that a clip is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// Size in pixels.
    pub size: Size,
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
pub fn choose(sizes: &[Size], counts: &[usize], clip: Size, frames: usize) -> Option<Bucket> {
    let ratio = |s: Size| (f64::from(s.width) / f64::from(s.height)).ln();
    let distance = |s: &Size| (ratio(*s) - ratio(clip)).abs();
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

    fn size(text: &str) -> Size {
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

    #[test]
    fn sizes_are_parsed_strictly() {
        assert!("0x4".parse::<Size>().is_err());
        assert!("4".parse::<Size>().is_err());
        assert!("4x-1".parse::<Size>().is_err());
    }
}
