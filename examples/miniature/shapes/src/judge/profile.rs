//! The outline of an object: how far it is from its middle in all directions, as waves per turn.

use std::f64::consts::TAU;

use super::object::Cover;

/// Directions in which the outline is looked for.
const RAYS: usize = 72;
/// Pixels between two looks along a ray.
const STEP: f64 = 0.25;
/// Waves per turn that are looked at: 0 to 6.
const WAVES: usize = 7;

/// The outline of one frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile {
    /// Fourier coefficients of distance over angle, as real and imaginary part, relative to the mean.
    pub waves: [[f64; 2]; WAVES],
    /// Share of the middle that is not covered.
    pub hole: f64,
}

impl Profile {
    /// `None` where the middle of the object sees no outline around it.
    ///
    /// Outlines are looked for from `farthest` pixels away inwards, so that holes do not matter.
    pub fn of(cover: &Cover, centre: [f64; 2], farthest: f64) -> Option<Self> {
        let radii: Vec<f64> = (0..RAYS)
            .map(|i| {
                let (sin, cos) = (TAU * i as f64 / RAYS as f64).sin_cos();
                let at = |r: f64| cover.at(centre[0] + r * cos, centre[1] + r * sin);
                let mut radius = farthest;
                let mut outside = 0.0;
                while radius > 0.0 {
                    let share = at(radius);
                    if share >= 0.5 {
                        return radius + STEP * (share - 0.5) / (share - outside).max(1e-9);
                    }
                    outside = share;
                    radius -= STEP;
                }
                0.0
            })
            .collect();
        let mean = radii.iter().sum::<f64>() / RAYS as f64;
        if mean <= 0.0 {
            return None;
        }
        let mut waves = [[0.0; 2]; WAVES];
        for (k, wave) in waves.iter_mut().enumerate() {
            for (i, radius) in radii.iter().enumerate() {
                let (sin, cos) = (TAU * (i * k) as f64 / RAYS as f64).sin_cos();
                let share = 2.0 * radius / (mean * RAYS as f64);
                wave[0] += share * cos;
                wave[1] += share * sin;
            }
        }
        let inner: Vec<f64> = (0..RAYS)
            .flat_map(|i| {
                let (sin, cos) = (TAU * i as f64 / RAYS as f64).sin_cos();
                [0.0, 0.12, 0.24].map(|r| {
                    let r = r * mean;
                    cover.at(centre[0] + r * cos, centre[1] + r * sin)
                })
            })
            .collect();
        Some(Self {
            waves,
            hole: 1.0 - inner.iter().sum::<f64>() / inner.len() as f64,
        })
    }

    /// Strength of a wave.
    pub fn strength(&self, wave: usize) -> f64 {
        self.waves[wave][0].hypot(self.waves[wave][1])
    }
}
