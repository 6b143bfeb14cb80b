//! Outlines of shapes.

use std::f64::consts::{PI, TAU};

use crate::Shape;

/// The outline of a shape of radius 1 around the origin, y down.
#[derive(Debug, Clone)]
pub(crate) enum Outline {
    /// All points between two distances from the origin.
    Annulus { inner: f64, outer: f64 },
    /// Corners in order.
    Polygon(Vec<[f64; 2]>),
    /// Two half discs on a point.
    Heart { scale: f64 },
}

/// Middle of the heart's bounding box in its own units.
const HEART_MIDDLE: f64 = 0.55;

impl Outline {
    /// Sizes are chosen so that shapes of one radius look equally large.
    pub fn of(shape: Shape) -> Self {
        match shape {
            Shape::Circle => Self::Annulus {
                inner: -1.0,
                outer: 1.0,
            },
            Shape::Ring => Self::Annulus {
                inner: 0.52,
                outer: 1.1,
            },
            Shape::Square => Self::Polygon(corners(4, PI / 4.0, |_| 1.24)),
            Shape::Triangle => Self::Polygon(corners(3, 0.0, |_| 1.35)),
            Shape::Star => Self::Polygon(corners(10, 0.0, |i| [1.35, 0.58][i % 2])),
            Shape::Heart => Self::Heart { scale: 1.9 },
        }
    }

    /// Distance from the origin to the farthest point.
    pub fn reach(&self) -> f64 {
        match self {
            Self::Annulus { outer, .. } => *outer,
            Self::Polygon(corners) => corners.iter().map(|c| c[0].hypot(c[1])).fold(0.0, f64::max),
            // The farthest point of a half disc, seen from the middle of the bounding box.
            Self::Heart { scale } => scale * (0.25f64.hypot(0.75 - HEART_MIDDLE) + 0.125f64.sqrt()),
        }
    }

    /// Signed distance to the outline, negative inside.
    pub fn distance(&self, [x, y]: [f64; 2]) -> f64 {
        match self {
            Self::Annulus { inner, outer } => {
                let radius = x.hypot(y);
                (radius - outer).max(inner - radius)
            }
            Self::Polygon(corners) => polygon_distance(corners, [x, y]),
            Self::Heart { scale } => {
                scale * heart_distance([x.abs() / scale, HEART_MIDDLE - y / scale])
            }
        }
    }
}

/// Corners clockwise from the top, turned by `turn`.
fn corners(count: usize, turn: f64, radius: impl Fn(usize) -> f64) -> Vec<[f64; 2]> {
    (0..count)
        .map(|i| {
            let angle = turn + TAU * i as f64 / count as f64;
            [radius(i) * angle.sin(), -radius(i) * angle.cos()]
        })
        .collect()
}

/// The nearest edge gives the distance, the number of edges crossed on the way out gives the sign.
fn polygon_distance(corners: &[[f64; 2]], [x, y]: [f64; 2]) -> f64 {
    let mut nearest = f64::INFINITY;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let edge = [previous[0] - corner[0], previous[1] - corner[1]];
        let from = [x - corner[0], y - corner[1]];
        let along = (from[0] * edge[0] + from[1] * edge[1]) / (edge[0].powi(2) + edge[1].powi(2));
        let along = along.clamp(0.0, 1.0);
        let apart = [from[0] - along * edge[0], from[1] - along * edge[1]];
        nearest = nearest.min(apart[0] * apart[0] + apart[1] * apart[1]);
        if (corner[1] > y) != (previous[1] > y) && from[0] < from[1] * edge[0] / edge[1] {
            inside = !inside;
        }
        previous = corner;
    }
    if inside {
        -nearest.sqrt()
    } else {
        nearest.sqrt()
    }
}

/// The right half of a heart (x ≥ 0, y up) that stands on the origin and is 1.1 high.
fn heart_distance([x, y]: [f64; 2]) -> f64 {
    if x + y > 1.0 {
        return (x - 0.25).hypot(y - 0.75) - 0.125f64.sqrt();
    }
    let diagonal = 0.5 * (x + y).max(0.0);
    let nearest = x.hypot(y - 1.0).min((x - diagonal).hypot(y - diagonal));
    if x < y { -nearest } else { nearest }
}
