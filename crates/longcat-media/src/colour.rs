//! Between RGB and the planes of 8-bit 4:2:0 video.
//!
//! Chroma samples lie on the even columns and midway between two rows, the position that H.264
//! assumes when nothing is said.

/// Which weights luma is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matrix {
    /// ITU-R BT.601, of standard-definition video.
    Bt601,
    /// ITU-R BT.709, of high-definition video; what this crate writes.
    Bt709,
}

/// How RGB became luma and chroma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColourSpace {
    pub(crate) matrix: Matrix,
    /// Luma from 0 to 255 rather than from 16 to 235.
    pub(crate) full_range: bool,
}

/// One frame in planes. Sides are even; chroma planes have half of them.
pub(crate) struct Planes {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) y: Vec<u8>,
    pub(crate) u: Vec<u8>,
    pub(crate) v: Vec<u8>,
}

/// A plane that may have padding at the end of its rows.
#[derive(Clone, Copy)]
pub(crate) struct PlaneRef<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
}

/// Offsets and scales of a colour space.
struct Levels {
    kr: f32,
    kb: f32,
    /// Luma of black.
    black: f32,
    /// Luma from black to white.
    luma: f32,
    /// Chroma from end to end.
    chroma: f32,
}

impl ColourSpace {
    fn levels(self) -> Levels {
        let (kr, kb) = match self.matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
        };
        let (black, luma, chroma) = if self.full_range {
            (0.0, 255.0, 255.0)
        } else {
            (16.0, 219.0, 224.0)
        };
        Levels {
            kr,
            kb,
            black,
            luma,
            chroma,
        }
    }

    /// `rgb` is `[height, width, 3]`; both sides are even.
    pub(crate) fn to_planes(self, rgb: &[u8], width: usize, height: usize) -> Planes {
        let levels = self.levels();
        let pixels = width * height;
        let mut y = Vec::with_capacity(pixels);
        let (mut blue, mut red) = (Vec::with_capacity(pixels), Vec::with_capacity(pixels));
        for pixel in rgb.chunks_exact(3) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(|c| f32::from(c) / 255.0);
            let luma = levels.kr * r + (1.0 - levels.kr - levels.kb) * g + levels.kb * b;
            y.push(to_byte(levels.black + levels.luma * luma));
            blue.push((b - luma) / (2.0 * (1.0 - levels.kb)));
            red.push((r - luma) / (2.0 * (1.0 - levels.kr)));
        }
        let chroma = |full: &[f32]| -> Vec<u8> {
            let mut plane = Vec::with_capacity(pixels / 4);
            for row in full.chunks_exact(2 * width) {
                let (top, bottom) = row.split_at(width);
                for x in (0..width).step_by(2) {
                    let left = x.max(1) - 1;
                    let sum = |row: &[f32]| row[left] + 2.0 * row[x] + row[x + 1];
                    let mean = (sum(top) + sum(bottom)) / 8.0;
                    plane.push(to_byte(128.0 + levels.chroma * mean));
                }
            }
            plane
        };
        Planes {
            width,
            height,
            u: chroma(&blue),
            v: chroma(&red),
            y,
        }
    }

    /// Appends `[height, width, 3]` to `rgb`. Odd sides are allowed: chroma planes are rounded up.
    pub(crate) fn append_rgb(
        self,
        [y, u, v]: [PlaneRef<'_>; 3],
        width: usize,
        height: usize,
        rgb: &mut Vec<u8>,
    ) {
        let levels = self.levels();
        let half = width.div_ceil(2);
        rgb.reserve(width * height * 3);
        let (mut blue, mut red) = (vec![0.0; half], vec![0.0; half]);
        for row in 0..height {
            interpolate_rows(u, row, half, height, &mut blue);
            interpolate_rows(v, row, half, height, &mut red);
            let luma_row = &y.data[row * y.stride..][..width];
            for (x, &luma) in luma_row.iter().enumerate() {
                let at = |plane: &[f32]| {
                    let next = (x.div_ceil(2)).min(half - 1);
                    ((plane[x / 2] + plane[next]) / 2.0 - 128.0) / levels.chroma
                };
                let luma = (f32::from(luma) - levels.black) / levels.luma;
                let b = luma + 2.0 * (1.0 - levels.kb) * at(&blue);
                let r = luma + 2.0 * (1.0 - levels.kr) * at(&red);
                let g = (luma - levels.kr * r - levels.kb * b) / (1.0 - levels.kr - levels.kb);
                rgb.extend([r, g, b].map(|c| to_byte(255.0 * c)));
            }
        }
    }
}

/// Chroma at the height of a luma row: three quarters of the nearer row, one of the other.
fn interpolate_rows(plane: PlaneRef<'_>, row: usize, half: usize, height: usize, out: &mut [f32]) {
    let near = row / 2;
    let last = height.div_ceil(2) - 1;
    let far = if row.is_multiple_of(2) {
        near.saturating_sub(1)
    } else {
        (near + 1).min(last)
    };
    let near = &plane.data[near * plane.stride..][..half];
    let far = &plane.data[far * plane.stride..][..half];
    for ((out, near), far) in out.iter_mut().zip(near).zip(far) {
        *out = 0.75 * f32::from(*near) + 0.25 * f32::from(*far);
    }
}

fn to_byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const BT709: ColourSpace = ColourSpace {
        matrix: Matrix::Bt709,
        full_range: false,
    };

    fn planes_of(rgb: [u8; 3], space: ColourSpace) -> [u8; 3] {
        let planes = space.to_planes(&rgb.repeat(4), 2, 2);
        [planes.y[0], planes.u[0], planes.v[0]]
    }

    #[test]
    fn primaries_have_the_levels_of_the_standards() {
        let bt601 = ColourSpace {
            matrix: Matrix::Bt601,
            full_range: false,
        };
        // 8-bit values of 100 % colour bars.
        assert_eq!(planes_of([255, 255, 255], BT709), [235, 128, 128]);
        assert_eq!(planes_of([0, 0, 0], BT709), [16, 128, 128]);
        assert_eq!(planes_of([255, 0, 0], BT709), [63, 102, 240]);
        assert_eq!(planes_of([0, 255, 0], BT709), [173, 42, 26]);
        assert_eq!(planes_of([0, 0, 255], BT709), [32, 240, 118]);
        assert_eq!(planes_of([255, 0, 0], bt601), [81, 90, 240]);
        assert_eq!(planes_of([0, 255, 0], bt601), [145, 54, 34]);
        assert_eq!(planes_of([0, 0, 255], bt601), [41, 240, 110]);
        let full = ColourSpace {
            full_range: true,
            ..BT709
        };
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
        for matrix in [Matrix::Bt601, Matrix::Bt709] {
            for full_range in [false, true] {
                let space = ColourSpace { matrix, full_range };
                let planes = space.to_planes(&rgb, width, height);
                let plane = |data, stride| PlaneRef { data, stride };
                let mut back = Vec::new();
                let refs = [
                    plane(&planes.y, width),
                    plane(&planes.u, width / 2),
                    plane(&planes.v, width / 2),
                ];
                space.append_rgb(refs, width, height, &mut back);
                let worst = rgb.iter().zip(&back).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(worst <= Some(4), "{space:?}: {worst:?}");
            }
        }
    }
}
