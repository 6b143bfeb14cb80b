//! How near two clips are.

use crate::{RenderedClip, ShapesError};

/// Frames on each side of a seam that a motion is read from.
const WINDOW: usize = 4;

/// Peak signal-to-noise ratio over all frames, in dB; infinite for equal clips.
///
/// # Errors
/// [`ShapesError::DifferentShapes`].
pub fn psnr(a: &RenderedClip, b: &RenderedClip) -> Result<f64, ShapesError> {
    if a.shape() != b.shape() {
        return Err(ShapesError::DifferentShapes {
            left: a.shape(),
            right: b.shape(),
        });
    }
    let squares: u64 = a
        .data()
        .iter()
        .zip(b.data())
        .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
        .sum();
    let mean = squares as f64 / a.data().len() as f64;
    Ok(10.0 * (255.0f64.powi(2) / mean).log10())
}

/// How far a steadily moving object jumps at a seam, in the units of `track`.
///
/// `track` has the position of every frame, as [`ObjectVerdict::track`](crate::ObjectVerdict)
/// does; frame `seam` is the first new one. A line through the frames before the seam and one
/// through those after it are compared half way between the two sides. `None` if the object is
/// seen in fewer than two of the frames on a side.
pub fn seam_jump(track: &[Option<[f64; 2]>], seam: usize) -> Option<f64> {
    let seam = seam.min(track.len());
    let before = seam.saturating_sub(WINDOW)..seam;
    let after = seam..(seam + WINDOW).min(track.len());
    let middle = seam as f64 - 0.5;
    let mut jump = [0.0; 2];
    for (axis, jump) in jump.iter_mut().enumerate() {
        let at = |range: std::ops::Range<usize>| {
            let points: Vec<(f64, f64)> = range
                .filter_map(|i| Some((i as f64 - middle, track[i]?[axis])))
                .collect();
            Line::through(&points).map(|line| line.offset)
        };
        *jump = at(after.clone())? - at(before.clone())?;
    }
    Some(jump[0].hypot(jump[1]))
}

/// A line `offset + slope · x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Line {
    pub offset: f64,
    pub slope: f64,
}

impl Line {
    /// The line of least squares, through two points or more of different x.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / count;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
        if spread.is_nan() || spread <= 0.0 {
            return None;
        }
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
        Some(Self {
            offset: y - slope * x,
            slope,
        })
    }

    /// Root mean square of what the line leaves unexplained.
    pub fn residual(&self, points: &[(f64, f64)]) -> f64 {
        let squares = points
            .iter()
            .map(|(x, y)| (y - self.offset - self.slope * x).powi(2));
        (squares.sum::<f64>() / points.len().max(1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn psnr_is_that_of_the_definition() {
        let clip = |value| RenderedClip::new(2, 1, vec![value; 12]).unwrap();
        assert_eq!(psnr(&clip(7), &clip(7)), Ok(f64::INFINITY));
        let expected = 20.0 * (255.0f64 / 5.0).log10();
        assert!((psnr(&clip(10), &clip(15)).unwrap() - expected).abs() < 1e-12);
        let longer = RenderedClip::new(2, 1, vec![0; 18]).unwrap();
        assert!(psnr(&clip(0), &longer).is_err());
    }

    #[test]
    fn a_jump_at_the_seam_is_measured() {
        let at = |i: usize, jump: f64| {
            let jump = if i >= 6 { jump } else { 0.0 };
            Some([2.0 * i as f64 + jump, 30.0])
        };
        let mut track: Vec<_> = (0..12).map(|i| at(i, 3.0)).collect();
        assert!((seam_jump(&track, 6).unwrap() - 3.0).abs() < 1e-9);
        track[5] = None;
        assert!((seam_jump(&track, 6).unwrap() - 3.0).abs() < 1e-9);
        let smooth: Vec<_> = (0..12).map(|i| at(i, 0.0)).collect();
        assert!(seam_jump(&smooth, 6).unwrap() < 1e-9);
        assert_eq!(seam_jump(&smooth, 12), None);
    }
}
