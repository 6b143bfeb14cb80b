//! Video sizes by aspect ratio, as the release was trained on.
//!
//! Source: `bukcet_config.py` of the official code, for sides that are multiples of 16 or 32, and
//! of 64 (refining with 4×4×4 chunks).

use crate::{VideoError, VideoSize};

/// A class of sizes of about the same number of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// About 480 × 832.
    P480,
    /// About 720 × 1280.
    P720,
}

type Buckets = &'static [(f64, usize, usize)];

/// (height over width as the release rounds it, height, width).
#[rustfmt::skip]
const P480: Buckets = &[
    (0.26, 320, 1216), (0.31, 352, 1120), (0.38, 384, 1024), (0.43, 416, 960), (0.52, 448, 864),
    (0.58, 480, 832), (0.67, 512, 768), (0.74, 544, 736), (0.86, 576, 672), (0.95, 608, 640),
    (1.05, 640, 608), (1.17, 672, 576), (1.29, 704, 544), (1.35, 736, 544), (1.50, 768, 512),
    (1.67, 800, 480), (1.73, 832, 480), (2.00, 896, 448), (2.31, 960, 416), (2.58, 992, 384),
    (2.75, 1056, 384), (3.09, 1088, 352), (3.70, 1184, 320), (3.80, 1216, 320), (3.90, 1248, 320),
    (4.00, 1280, 320),
];

#[rustfmt::skip]
const P480_BY_64: Buckets = &[
    (0.26, 320, 1216), (0.38, 384, 1024), (0.50, 448, 896), (0.67, 512, 768), (0.82, 576, 704),
    (1.00, 640, 640), (1.22, 704, 576), (1.50, 768, 512), (1.86, 832, 448), (2.00, 896, 448),
    (2.50, 960, 384), (2.83, 1088, 384), (3.60, 1152, 320), (3.80, 1216, 320), (4.00, 1280, 320),
];

#[rustfmt::skip]
const P720: Buckets = &[
    (0.25, 480, 1920), (0.29, 512, 1792), (0.32, 544, 1696), (0.36, 576, 1600), (0.40, 608, 1504),
    (0.49, 672, 1376), (0.54, 704, 1312), (0.59, 736, 1248), (0.69, 800, 1152), (0.74, 832, 1120),
    (0.82, 864, 1056), (0.88, 896, 1024), (0.94, 928, 992), (1.00, 960, 960), (1.07, 992, 928),
    (1.14, 1024, 896), (1.22, 1056, 864), (1.31, 1088, 832), (1.35, 1120, 832), (1.44, 1152, 800),
    (1.70, 1248, 736), (2.00, 1344, 672), (2.05, 1376, 672), (2.47, 1504, 608), (2.53, 1536, 608),
    (2.83, 1632, 576), (3.06, 1664, 544), (3.12, 1696, 544), (3.62, 1856, 512), (3.93, 1888, 480),
    (4.00, 1920, 480),
];

#[rustfmt::skip]
const P720_BY_64: Buckets = &[
    (0.22, 448, 2048), (0.29, 512, 1792), (0.36, 576, 1600), (0.45, 640, 1408), (0.55, 704, 1280),
    (0.63, 768, 1216), (0.76, 832, 1088), (0.88, 896, 1024), (1.00, 960, 960), (1.14, 1024, 896),
    (1.31, 1088, 832), (1.50, 1152, 768), (1.58, 1216, 768), (1.82, 1280, 704), (1.91, 1344, 704),
    (2.20, 1408, 640), (2.30, 1472, 640), (2.67, 1536, 576), (2.89, 1664, 576), (3.62, 1856, 512),
    (3.75, 1920, 512),
];

/// The sizes of about 480 × 832 pixels, from wide to high.
pub(crate) fn sizes_480() -> Vec<VideoSize> {
    let sizes = P480.iter();
    sizes
        .map(|(_, height, width)| VideoSize::new(*width, *height))
        .collect()
}

/// The size whose aspect ratio is nearest to that of `given`, with sides divisible by `multiple`
/// (16, 32 or 64).
///
/// # Errors
/// [`VideoError::Invalid`] for another multiple or an empty picture.
pub(crate) fn bucket(
    resolution: Resolution,
    given: VideoSize,
    multiple: usize,
) -> Result<VideoSize, VideoError> {
    if given.width == 0 || given.height == 0 {
        return Err(VideoError::invalid("size", "a picture without pixels"));
    }
    let table = match (resolution, multiple) {
        (Resolution::P480, 16 | 32) => P480,
        (Resolution::P480, 64) => P480_BY_64,
        (Resolution::P720, 16 | 32) => P720,
        (Resolution::P720, 64) => P720_BY_64,
        _ => {
            return Err(VideoError::invalid(
                "size",
                format!("there are no sizes in multiples of {multiple}; 16, 32 and 64 exist"),
            ));
        }
    };
    let ratio = given.height as f64 / given.width as f64;
    let distance = |b: &(f64, usize, usize)| (b.0 - ratio).abs();
    let mut best = table[0];
    for candidate in table {
        // Strictly nearer: of equals the first wins, as in a stable sort.
        if distance(candidate) < distance(&best) {
            best = *candidate;
        }
    }
    Ok(VideoSize {
        width: best.2,
        height: best.1,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn size(width: usize, height: usize) -> VideoSize {
        VideoSize { width, height }
    }

    #[test]
    fn common_pictures_fall_into_the_published_sizes() {
        for (given, resolution, multiple, expected) in [
            (size(1920, 1080), Resolution::P480, 16, size(832, 480)),
            (size(1080, 1920), Resolution::P480, 32, size(480, 832)),
            (size(1024, 1024), Resolution::P720, 32, size(960, 960)),
            (size(832, 480), Resolution::P720, 64, size(1280, 704)),
        ] {
            assert_eq!(bucket(resolution, given, multiple).unwrap(), expected);
        }
        assert!(bucket(Resolution::P480, size(10, 10), 48).is_err());
        assert!(bucket(Resolution::P480, size(0, 10), 16).is_err());
    }

    #[test]
    fn every_size_is_divisible_and_close_to_its_ratio() {
        for (table, multiple) in [(P480, 32), (P720, 32), (P480_BY_64, 64), (P720_BY_64, 64)] {
            for (ratio, height, width) in table {
                assert!(
                    height % multiple == 0 && width % multiple == 0,
                    "{height}x{width}"
                );
                let actual = *height as f64 / *width as f64;
                assert!(
                    (actual - ratio).abs() < 0.06 * ratio,
                    "{ratio}: {height}x{width}"
                );
            }
        }
    }
}
