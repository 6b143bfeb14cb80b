//! Between RGB and planes of luma and chroma, at any depth and subsampling.

use crate::VideoSize;
use crate::chroma::{Fit, Siting, Tap};
use crate::colour::{ColourSpace, Primaries, Transfer, to_byte};
use crate::light::Light;

/// How far a channel that is at its end goes beyond it in the planes, in steps of RGB. Readers cut that off,
/// and with it what the encoder errs by; at the end itself, errors to one side alone would be cut off, and
/// colours retreat from it each time that a video is written.
const BEYOND_THE_END: f32 = 1.25;

/// How the planes of a frame lie in its bytes: luma, then both planes of chroma, rows without
/// padding. Samples of more than 8 bits have two bytes, the lower one first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Planar {
    /// Along rows, and along columns; `None` for luma alone.
    pub(crate) siting: Option<[Siting; 2]>,
    /// Bits of a sample, 8 to 16.
    pub(crate) depth: u32,
}

impl Planar {
    /// 8-bit 4:2:0 as H.264 has it where nothing is said: chroma on the even columns and midway
    /// between two rows.
    pub(crate) const YUV420: Self = Self {
        siting: Some([Siting::COSITED, Siting::CENTRED]),
        depth: 8,
    };

    /// Bytes of a frame.
    pub(crate) fn bytes(&self, size: VideoSize) -> usize {
        let chroma = self.siting.map_or(0, |[x, y]| {
            2 * x.samples(size.width) * y.samples(size.height)
        });
        (size.width * size.height + chroma) * self.sample_bytes()
    }

    fn sample_bytes(&self) -> usize {
        if self.depth > 8 { 2 } else { 1 }
    }

    /// RGB `[height, width, 3]` of a frame, in the colours of a screen.
    pub(crate) fn rgb(&self, bytes: &[u8], size: VideoSize, space: ColourSpace) -> Vec<u8> {
        let VideoSize { width, height } = size;
        let samples = Samples {
            bytes,
            wide: self.depth > 8,
        };
        let levels = space.levels(self.depth);
        let light = Light::new(space);
        let chroma = self.siting.map(|[x, y]| Chroma {
            columns: x.taps(width),
            rows: y.taps(height),
            width: x.samples(width),
            plane: x.samples(width) * y.samples(height),
        });
        let mut rgb = Vec::with_capacity(width * height * 3);
        let (mut blue, mut red) = (vec![0.0; width], vec![0.0; width]);
        for row in 0..height {
            if let Some(chroma) = &chroma {
                let start = width * height;
                chroma.row(samples, start, row, &mut blue);
                chroma.row(samples, start + chroma.plane, row, &mut red);
                for value in blue.iter_mut().chain(&mut red) {
                    *value = (*value - levels.grey) / levels.chroma;
                }
            }
            for (x, (blue, red)) in blue.iter().zip(&red).enumerate() {
                let luma = (samples.at(row * width + x) - levels.black) / levels.luma;
                let b = luma + 2.0 * (1.0 - levels.kb) * blue;
                let r = luma + 2.0 * (1.0 - levels.kr) * red;
                let g = (luma - levels.kr * r - levels.kb * b) / (1.0 - levels.kr - levels.kb);
                let shown = light
                    .as_ref()
                    .map_or([r, g, b], |light| light.shown([r, g, b]));
                rgb.extend(shown.map(|c| to_byte(255.0 * c)));
            }
        }
        rgb
    }

    /// Planes of RGB `[height, width, 3]`, 8 bits deep, from which [`Self::rgb`] comes nearest to it.
    pub(crate) fn planes(&self, rgb: &[u8], size: VideoSize, space: ColourSpace) -> Vec<u8> {
        debug_assert!(self.depth == 8 && space == ColourSpace::sdr(space.matrix, space.full_range));
        let VideoSize { width, height } = size;
        let levels = space.levels(8);
        let pixels = width * height;
        let mut out = Vec::with_capacity(self.bytes(size));
        let (mut blue, mut red) = (Vec::with_capacity(pixels), Vec::with_capacity(pixels));
        for pixel in rgb.chunks_exact(3) {
            let pixel = [pixel[0], pixel[1], pixel[2]];
            // Black and white keep the levels of the standards.
            let beyond = match pixel {
                [r, g, b] if r == g && g == b => 0.0,
                _ => BEYOND_THE_END,
            };
            let [r, g, b] = pixel.map(|c| match c {
                0 => -beyond / 255.0,
                255 => 1.0 + beyond / 255.0,
                c => f32::from(c) / 255.0,
            });
            let luma = levels.kr * r + (1.0 - levels.kr - levels.kb) * g + levels.kb * b;
            out.push(to_byte(levels.black + levels.luma * luma));
            blue.push((b - luma) / (2.0 * (1.0 - levels.kb)));
            red.push((r - luma) / (2.0 * (1.0 - levels.kr)));
        }
        if let Some([x, y]) = self.siting {
            let (along, down) = (Fit::new(x, width), Fit::new(y, height));
            for plane in [blue, red] {
                let rows: Vec<f32> = plane
                    .chunks_exact(width)
                    .flat_map(|row| along.solve(row, 1))
                    .collect();
                let fitted = down.solve(&rows, x.samples(width));
                out.extend(
                    fitted
                        .iter()
                        .map(|c| to_byte(levels.grey + levels.chroma * c)),
                );
            }
        }
        out
    }
}

/// Samples of one or two bytes.
#[derive(Clone, Copy)]
struct Samples<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl Samples<'_> {
    fn at(&self, index: usize) -> f32 {
        if self.wide {
            f32::from(u16::from_le_bytes([
                self.bytes[2 * index],
                self.bytes[2 * index + 1],
            ]))
        } else {
            f32::from(self.bytes[index])
        }
    }
}

/// How chroma is brought to the places of luma.
struct Chroma {
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    /// Samples of a row.
    width: usize,
    /// Samples of a plane.
    plane: usize,
}

impl Chroma {
    /// The plane that begins at sample `start`, at the height of a luma row and with its samples.
    fn row(&self, samples: Samples<'_>, start: usize, row: usize, out: &mut [f32]) {
        let rows = self.rows[row];
        let (first, second) = (
            start + rows.first * self.width,
            start + rows.second * self.width,
        );
        let column = |x: usize| rows.of(samples.at(first + x), samples.at(second + x));
        for (out, tap) in out.iter_mut().zip(&self.columns) {
            *out = tap.of(column(tap.first), column(tap.second));
        }
    }
}

impl Light {
    /// What has to be done beyond the matrix; `None` where the signal is that of a screen.
    fn new(space: ColourSpace) -> Option<Self> {
        match (space.transfer, space.primaries) {
            (Transfer::Sdr, Primaries::Bt709) => None,
            (transfer, primaries) => Some(Self {
                transfer,
                primaries,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colour::Matrix;

    const BT709: ColourSpace = ColourSpace::sdr(Matrix::Bt709, false);

    fn planes_of(rgb: [u8; 3], space: ColourSpace) -> [u8; 3] {
        let planes = Planar::YUV420.planes(&rgb.repeat(4), VideoSize::new(2, 2), space);
        [planes[0], planes[4], planes[5]]
    }

    #[test]
    fn primaries_have_the_levels_of_the_standards() {
        let bt601 = ColourSpace::sdr(Matrix::Bt601, false);
        // 8-bit values of 100 % colour bars.
        assert_eq!(planes_of([255, 255, 255], BT709), [235, 128, 128]);
        assert_eq!(planes_of([0, 0, 0], BT709), [16, 128, 128]);
        let colours = [
            ([255, 0, 0], BT709, [63, 102, 240]),
            ([0, 255, 0], BT709, [173, 42, 26]),
            ([0, 0, 255], BT709, [32, 240, 118]),
            ([255, 0, 0], bt601, [81, 90, 240]),
            ([0, 255, 0], bt601, [145, 54, 34]),
            ([0, 0, 255], bt601, [41, 240, 110]),
        ];
        for (rgb, space, standard) in colours {
            // One step more saturated, which is cut off again.
            let planes = planes_of(rgb, space);
            let apart = planes.iter().zip(standard).map(|(a, b)| a.abs_diff(b));
            assert!(apart.max() <= Some(1), "{rgb:?}: {planes:?} {standard:?}");
            let frame = [planes[0]; 4].into_iter().chain([planes[1], planes[2]]);
            let frame: Vec<u8> = frame.collect();
            let back = Planar::YUV420.rgb(&frame, VideoSize::new(2, 2), space);
            assert_eq!(back, rgb.repeat(4), "{planes:?}");
        }
        let full = ColourSpace::sdr(Matrix::Bt709, true);
        assert_eq!(planes_of([255, 255, 255], full), [255, 128, 128]);
    }

    #[test]
    fn smooth_pictures_survive_the_round_trip() {
        let (width, height) = (24, 16);
        let rgb: Vec<u8> = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .flat_map(|(x, y)| {
                [
                    100 + x as u8 * 3,
                    60 + y as u8 * 2,
                    200 - x as u8 - y as u8 * 2,
                ]
            })
            .collect();
        let size = VideoSize::new(width, height);
        for matrix in [Matrix::Bt601, Matrix::Bt709] {
            for full_range in [false, true] {
                let space = ColourSpace::sdr(matrix, full_range);
                let planes = Planar::YUV420.planes(&rgb, size, space);
                let back = Planar::YUV420.rgb(&planes, size, space);
                let worst = rgb.iter().zip(&back).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(worst <= Some(4), "{space:?}: {worst:?}");
            }
        }
    }

    #[test]
    fn colour_does_not_fade_in_twenty_rounds() {
        let (width, height) = (48, 32);
        let size = VideoSize::new(width, height);
        // Saturated colours with soft edges.
        let source: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                let (x, y) = ((i % width) as f32 - 24.0, (i / width) as f32 - 16.0);
                let share = 1.0 / (1.0 + (x.hypot(y) - 9.0).exp());
                [(230.0, 30.0), (40.0, 90.0), (30.0, 220.0)]
                    .map(|(inside, outside)| to_byte(outside + share * (inside - outside)))
            })
            .collect();
        let error = |rgb: &[u8]| {
            let squares = source
                .iter()
                .zip(rgb)
                .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
            squares.sum::<f64>() / source.len() as f64
        };
        let round = |rgb: &[u8]| {
            let planes = Planar::YUV420.planes(rgb, size, BT709);
            Planar::YUV420.rgb(&planes, size, BT709)
        };
        let once = round(&source);
        let many = (1..20).fold(once.clone(), |rgb, _| round(&rgb));
        let lost = 10.0 * (error(&many) / error(&once)).log10();
        assert!(lost < 1.0, "{lost} dB");
    }

    #[test]
    fn planes_that_were_read_are_written_as_they_were() {
        let size = VideoSize::new(20, 12);
        // Chroma with hard edges, far from the ends so that RGB is not clamped.
        let mut planes = vec![120; Planar::YUV420.bytes(size)];
        for (i, sample) in planes.iter_mut().enumerate().skip(20 * 12) {
            *sample = if i % 7 < 3 { 115 } else { 140 };
        }
        let once = Planar::YUV420.rgb(&planes, size, BT709);
        let again = Planar::YUV420.planes(&once, size, BT709);
        let worst = planes.iter().zip(&again).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{worst:?}");
    }
}
