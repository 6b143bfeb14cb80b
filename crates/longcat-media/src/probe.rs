//! What ffmpeg says about a stream: its filter `showinfo` and the description of its output.

use std::path::Path;

use crate::chroma::Siting;
use crate::colour::{ColourSpace, Matrix, Primaries, Transfer};
use crate::planar::Planar;
use crate::source::{Pixels, Stored};
use crate::{MediaError, VideoSize};

/// The first frame, as it comes out of ffmpeg.
#[derive(Debug, PartialEq)]
pub(crate) struct Probe {
    size: VideoSize,
    /// Name of the pixel format.
    format: String,
    /// Width of a sample over its height.
    aspect: f64,
    /// Of the file, as `1:600`.
    pub(crate) time_base: String,
    pub(crate) fps: Option<f64>,
    /// How long the file is, if it says so.
    pub(crate) seconds: Option<f64>,
    range: String,
    matrix: String,
    primaries: String,
    transfer: String,
    /// Where chroma lies in the stored frame.
    location: String,
    /// Degrees counter-clockwise by which the stored frame was turned.
    rotation: f64,
}

impl Probe {
    /// From the messages of level `verbose` of a run with `showinfo`; `None` without a frame.
    pub(crate) fn parse(log: &str) -> Option<Self> {
        let mut info = log
            .lines()
            .filter(|line| line.starts_with("[Parsed_showinfo"));
        let config = info.find(|line| line.contains("config in time_base:"))?;
        let base = word(config, "time_base: ")?;
        let frame = info.find(|line| line.contains(" fmt:") && line.contains(" s:"))?;
        let colour = info
            .find(|line| line.contains("color_range:"))
            .unwrap_or("");
        let name = |key: &str| word(colour, key).unwrap_or_default().to_string();
        let format = word(frame, " fmt:")?.to_string();
        let output = log.rsplit_once("Output #").map_or("", |(_, output)| output);
        // `yuv420p(tv, bt709, progressive, left)`
        let described = output
            .split_once(&format!("{format}("))
            .and_then(|(_, rest)| rest.split_once(')'))
            .map_or("", |(words, _)| words);
        let location = ["topleft", "bottomleft", "center", "top", "bottom", "left"]
            .into_iter()
            .find(|location| described.split(", ").any(|word| word == *location));
        Some(Self {
            size: word(frame, " s:")?.parse().ok()?,
            aspect: word(frame, " sar:").and_then(ratio).unwrap_or(1.0),
            time_base: base.trim_end_matches(',').replace('/', ":"),
            fps: word(config, "frame_rate: ").and_then(ratio),
            seconds: word(log, "\n  Duration: ").and_then(seconds),
            range: name("color_range:"),
            matrix: name("color_space:"),
            primaries: name("color_primaries:"),
            transfer: name("color_trc:"),
            location: location.unwrap_or("left").to_string(),
            rotation: word(log, "rotation of ")
                .and_then(|degrees| degrees.parse().ok())
                .unwrap_or(0.0),
            format,
        })
    }

    /// The pixel format to ask for: the stored one where this crate turns it into RGB, so that
    /// nothing is lost on the way, else RGB.
    pub(crate) fn output_format(&self) -> String {
        Layout::of(&self.format).map_or_else(|| "rgb24".into(), |layout| layout.name)
    }

    /// How frames of [`Self::output_format`] become pictures.
    pub(crate) fn stored(&self, path: &Path) -> Result<Stored, MediaError> {
        let pixels = match Layout::of(&self.format) {
            None => Pixels::Rgb,
            Some(layout) => {
                let siting = layout.steps.map(|steps| self.siting(steps));
                let depth = layout.depth;
                Pixels::Planar(Planar { siting, depth }, self.colour(path, &layout)?)
            }
        };
        let stored = Stored {
            pixels,
            aspect: self.aspect,
            ..Stored::rgb(self.size)
        };
        stored.check_aspect(path)?;
        Ok(stored)
    }

    fn colour(&self, path: &Path, layout: &Layout) -> Result<ColourSpace, MediaError> {
        let VideoSize { width, height } = self.size;
        let matrix = match self.matrix.as_str() {
            "bt709" => Matrix::Bt709,
            "bt470bg" | "smpte170m" => Matrix::Bt601,
            "bt2020nc" => Matrix::Bt2020,
            "smpte240m" => Matrix::Smpte240,
            "fcc" => Matrix::Fcc,
            "" | "unknown" | "reserved" => Matrix::guess(width, height),
            // Luma alone has no use for it.
            _ if layout.steps.is_none() => Matrix::Bt709,
            other => {
                let reason = format!(
                    "its colour matrix is {other}, which is not understood; convert it to BT.709"
                );
                return Err(MediaError::unreadable(path, reason));
            }
        };
        Ok(ColourSpace {
            matrix,
            full_range: match self.range.as_str() {
                "pc" => true,
                "tv" => false,
                _ => layout.full_range,
            },
            transfer: match self.transfer.as_str() {
                "smpte2084" => Transfer::Pq,
                "arib-std-b67" => Transfer::Hlg,
                _ => Transfer::Sdr,
            },
            primaries: match self.primaries.as_str() {
                "bt2020" => Primaries::Bt2020,
                "smpte431" | "smpte432" => Primaries::P3,
                _ => Primaries::Bt709,
            },
        })
    }

    /// Where chroma lies after ffmpeg turned the frame.
    fn siting(&self, [x, y]: [usize; 2]) -> [Siting; 2] {
        let VideoSize { width, height } = self.size;
        let along = |step: usize, first: bool, last: bool| {
            let between = (step - 1) as f32;
            let share = if first {
                0.0
            } else if last {
                1.0
            } else {
                0.5
            };
            Siting::new(step, between * share)
        };
        let location = self.location.as_str();
        // Of the stored frame.
        let sited = |x: usize, y: usize| {
            [
                along(x, location.ends_with("left"), false),
                along(
                    y,
                    location.starts_with("top"),
                    location.starts_with("bottom"),
                ),
            ]
        };
        match self.rotation.round() as i64 {
            -90 | 270 => {
                let [stored_x, stored_y] = sited(y, x);
                [stored_y.mirrored(width), stored_x]
            }
            90 | -270 => {
                let [stored_x, stored_y] = sited(y, x);
                [stored_y, stored_x.mirrored(height)]
            }
            180 | -180 => {
                let [stored_x, stored_y] = sited(x, y);
                [stored_x.mirrored(width), stored_y.mirrored(height)]
            }
            _ => sited(x, y),
        }
    }
}

/// What follows a key, up to a blank or comma.
fn word<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(key)?;
    rest.split([' ', ',', '\n']).find(|word| !word.is_empty())
}

/// `00:01:02.50` in seconds; `None` for `N/A`.
fn seconds(text: &str) -> Option<f64> {
    text.split(':').try_fold(0.0, |seconds, part| {
        Some(60.0 * seconds + part.parse::<f64>().ok()?)
    })
}

/// `30000/1001`; `None` for nothing and for zero.
fn ratio(text: &str) -> Option<f64> {
    let (above, below) = text.split_once('/')?;
    let value = above.parse::<f64>().ok()? / below.parse::<f64>().ok()?;
    (value.is_finite() && value > 0.0).then_some(value)
}

/// A pixel format whose planes this crate reads, and which ffmpeg makes of one with the same samples.
#[derive(Debug, PartialEq)]
struct Layout {
    name: String,
    /// Luma samples to one of chroma, along rows and columns.
    steps: Option<[usize; 2]>,
    depth: u32,
    /// Where the stream says nothing.
    full_range: bool,
}

impl Layout {
    fn of(format: &str) -> Option<Self> {
        let planar = match format {
            "nv12" | "nv21" => "yuv420p",
            "nv16" | "yuyv422" | "uyvy422" | "yvyu422" => "yuv422p",
            "nv24" | "nv42" => "yuv444p",
            "uyyvyy411" => "yuv411p",
            "p010le" | "p010be" => "yuv420p10le",
            "p012le" | "p012be" => "yuv420p12le",
            "p016le" | "p016be" => "yuv420p16le",
            "p210le" | "p210be" | "y210le" | "nv20le" | "nv20be" => "yuv422p10le",
            "p216le" | "p216be" => "yuv422p16le",
            "p410le" | "p410be" => "yuv444p10le",
            "p416le" | "p416be" => "yuv444p16le",
            other => other,
        };
        let depth = |text: &str| match text {
            "" => Some(8),
            text => {
                let digits = text
                    .strip_suffix("le")
                    .or_else(|| text.strip_suffix("be"))?;
                digits.parse().ok().filter(|depth| (9..=16).contains(depth))
            }
        };
        let ending = |depth: u32| match depth {
            8 => String::new(),
            depth => format!("{depth}le"),
        };
        if let Some(rest) = planar.strip_prefix("gray") {
            let depth = depth(rest)?;
            return Some(Self {
                name: format!("gray{}", ending(depth)),
                steps: None,
                depth,
                full_range: true,
            });
        }
        let full = planar.strip_prefix("yuvj");
        // Planes of transparency are left out.
        let rest = full.or_else(|| planar.strip_prefix("yuva"));
        let rest = rest.or_else(|| planar.strip_prefix("yuv"))?;
        let (sampling, rest) = rest.split_once('p')?;
        let steps = match sampling {
            "420" => [2, 2],
            "422" => [2, 1],
            "444" => [1, 1],
            "440" => [1, 2],
            "411" => [4, 1],
            "410" => [4, 4],
            _ => return None,
        };
        let depth = depth(rest)?;
        let j = if full.is_some() { "j" } else { "" };
        Some(Self {
            name: format!("yuv{j}{sampling}p{}", ending(depth)),
            steps: Some(steps),
            depth,
            full_range: full.is_some(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LOG: &str = "\
Input #0, mov, from 'file:a.mov':
  Duration: 00:01:02.50, start: 0.000000, bitrate: 22 kb/s
  Stream #0:0: Video: hevc (Main 10), yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67, topleft), 96x64
      displaymatrix: rotation of -90.00 degrees
[Parsed_showinfo_0 @ 0x5] config in time_base: 1/600, frame_rate: 30000/1001
[Parsed_showinfo_0 @ 0x5] config out time_base: 0/0, frame_rate: 0/0
[Parsed_showinfo_0 @ 0x5] n:   0 pts:      0 pts_time:0 pos: 48 fmt:yuv420p10le sar:4/3 s:64x96 i:P
[Parsed_showinfo_0 @ 0x5] color_range:tv color_space:bt2020nc color_primaries:bt2020 color_trc:arib-std-b67
Output #0, null, to 'pipe:':
  Stream #0:0: Video: wrapped_avframe, yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67, progressive, left), 64x96";

    #[test]
    fn a_stream_is_known_by_what_ffmpeg_says() {
        let probe = Probe::parse(LOG).unwrap();
        assert_eq!(probe.time_base, "1:600");
        assert_eq!(probe.seconds, Some(62.5));
        assert_eq!(probe.fps, Some(30000.0 / 1001.0));
        let stored = probe.stored(Path::new("a")).unwrap();
        assert_eq!(stored.size, VideoSize::new(64, 96));
        assert_eq!(stored.shown(), VideoSize::new(85, 96));
        // Chroma at the left of the stored frame is at the top after a turn to the right.
        let planar = Planar {
            siting: Some([Siting::CENTRED, Siting::COSITED]),
            depth: 10,
        };
        let space = ColourSpace {
            matrix: Matrix::Bt2020,
            full_range: false,
            transfer: Transfer::Hlg,
            primaries: Primaries::Bt2020,
        };
        assert_eq!(stored.pixels, Pixels::Planar(planar, space));
        assert_eq!(Probe::parse("Stream map '0:V:0' matches no streams."), None);
    }

    #[test]
    fn formats_keep_their_samples() {
        let name = |format: &str| Layout::of(format).map(|layout| layout.name);
        for (format, expected) in [
            ("yuv420p", "yuv420p"),
            ("yuvj422p", "yuvj422p"),
            ("yuva444p10le", "yuv444p10le"),
            ("yuv422p12be", "yuv422p12le"),
            ("p010le", "yuv420p10le"),
            ("gray", "gray"),
            ("gray12le", "gray12le"),
        ] {
            assert_eq!(name(format).as_deref(), Some(expected), "{format}");
        }
        for format in ["rgb24", "pal8", "gbrp10le", "grayf32le", "xyz12le", "ya8"] {
            assert_eq!(name(format), None, "{format}");
        }
    }
}
