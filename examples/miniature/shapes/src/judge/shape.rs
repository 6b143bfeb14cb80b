//! The shape of an object, by the waves in its outline.

use super::object::Seen;
use crate::Shape;

/// Strengths of waves 1 to 6 of the ideal outlines, around the middle of the area. A polygon of n
/// corners has waves n, 2n and so on; the heart's cleft and point make waves 2 and 3.
const IDEAL: &[(Shape, [f64; 6])] = &[
    (Shape::Circle, [0.0; 6]),
    (Shape::Square, [0.0, 0.0, 0.0, 0.138, 0.0, 0.0]),
    (Shape::Triangle, [0.0, 0.0, 0.274, 0.0, 0.0, 0.104]),
    (Shape::Star, [0.0, 0.0, 0.0, 0.0, 0.330, 0.0]),
    (Shape::Heart, [0.010, 0.096, 0.150, 0.018, 0.038, 0.0]),
];
/// Blur rounds corners off, which leaves this share of the waves or more.
const ROUNDED: f64 = 0.6;
/// Sharper or longer corners than the ideal ones are that much stronger at most.
const POINTED: f64 = 1.2;
/// With a smaller share of its waves, an outline is too round to be called by a name.
const FAINT: f64 = 0.5;
/// An outline farther from all ideal ones is none of them.
const UNLIKE: f64 = 0.07;
/// Least share of the middle that is open in a ring.
const OPEN: f64 = 0.5;

/// The shape, averaged over the frames in which all of it is seen.
pub(super) fn shape(seen: &[Option<Seen>]) -> Option<Shape> {
    let all: Vec<&Seen> = seen.iter().flatten().collect();
    let whole: Vec<&Seen> = all.iter().copied().filter(|s| !s.cut).collect();
    let usable = if whole.is_empty() { all } else { whole };
    let (mut strengths, mut hole, mut total) = ([0.0; 6], 0.0, 0.0);
    for seen in usable {
        let Some(profile) = &seen.profile else {
            continue;
        };
        // The larger it is, the more is seen of it.
        for (k, sum) in strengths.iter_mut().enumerate() {
            *sum += seen.area * profile.strength(k + 1);
        }
        hole += seen.area * profile.hole;
        total += seen.area;
    }
    if total <= 0.0 {
        return None;
    }
    let strengths = strengths.map(|s| s / total);
    // How much of the ideal waves there is, and how far the outline is from as much of them as
    // blur may leave.
    let compare = |ideal: &[f64; 6]| {
        let product: f64 = strengths.iter().zip(ideal).map(|(s, i)| s * i).sum();
        let length: f64 = ideal.iter().map(|i| i * i).sum();
        let share = match length > 0.0 {
            true => product / length,
            false => 1.0,
        };
        let scale = share.clamp(ROUNDED, POINTED);
        let squares = strengths
            .iter()
            .zip(ideal)
            .map(|(s, i)| (s - scale * i).powi(2));
        (squares.sum::<f64>().sqrt(), share)
    };
    let named = IDEAL.iter().map(|(shape, ideal)| (compare(ideal), *shape));
    let ((away, share), nearest) = named.min_by(|a, b| a.0.0.total_cmp(&b.0.0))?;
    match (nearest, hole / total >= OPEN) {
        _ if away > UNLIKE || share < FAINT => None,
        (Shape::Circle, true) => Some(Shape::Ring),
        (_, true) => None,
        (shape, false) => Some(shape),
    }
}
