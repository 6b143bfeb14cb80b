//! Cutting an object out of every frame.

use super::colours::{Ground, Ink, Point, distance};
use super::profile::Profile;
use crate::RenderedClip;

/// A pixel belongs to the object from this share of its colour on.
const INSIDE: f32 = 0.5;
/// Smaller shares are noise.
const NOISE: f32 = 0.15;
/// How far from all mixtures of background and object a pixel may be.
const OFF_LINE: f64 = 80.0;
/// Least share of the frame that an object covers.
const LEAST_SHARE: f64 = 0.004;
/// From this share of the largest part on, another part is an object too.
const SECOND_PART: f64 = 0.2;

/// An object in one frame.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Pixels that it covers.
    pub area: f64,
    /// Its middle, as x and y in pixels.
    pub centre: [f64; 2],
    /// Whether it reaches the edge of the frame and may go on behind it.
    pub cut: bool,
    /// Parts of its colour that are about as large, itself included.
    pub parts: usize,
    /// Its outline, if one is seen around its middle.
    pub profile: Option<Profile>,
}

/// Shares in [0, 1], `[H, W]`.
#[derive(Debug, Clone)]
pub(super) struct Cover {
    pub width: usize,
    pub height: usize,
    pub shares: Vec<f32>,
}

impl Cover {
    /// The share at a point in pixels, between pixel middles by linear interpolation.
    pub fn at(&self, x: f64, y: f64) -> f64 {
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (right, down) = (x - left, y - top);
        let value = |column: f64, row: f64| {
            let inside = column >= 0.0
                && row >= 0.0
                && column < self.width as f64
                && row < self.height as f64;
            match inside {
                true => f64::from(self.shares[row as usize * self.width + column as usize]),
                false => 0.0,
            }
        };
        let upper = value(left, top) * (1.0 - right) + value(left + 1.0, top) * right;
        let lower = value(left, top + 1.0) * (1.0 - right) + value(left + 1.0, top + 1.0) * right;
        upper * (1.0 - down) + lower * down
    }
}

/// The object of ink `index` in every frame, `None` where it is not seen.
pub(super) fn follow(
    clip: &RenderedClip,
    ground: &Ground,
    inks: &[Ink],
    index: usize,
) -> Vec<Option<Seen>> {
    let [_, height, width] = clip.shape();
    let frames = clip.frames().zip(&ground.frames);
    frames
        .map(|(frame, ground)| {
            let pixels = frame.chunks_exact(3);
            let shares = pixels.map(|p| share(p, *ground, inks, index)).collect();
            let cover = Cover {
                width,
                height,
                shares,
            };
            largest_part(cover)
        })
        .collect()
}

/// How many parts there are in most frames.
pub(super) fn usual_parts(seen: &[Option<Seen>]) -> usize {
    let mut parts: Vec<usize> = seen
        .iter()
        .map(|s| s.as_ref().map_or(0, |s| s.parts))
        .collect();
    parts.sort_unstable();
    parts.get(parts.len() / 2).copied().unwrap_or(0)
}

/// How much of a pixel has the ink `index`, if that and the background explain it better than
/// another ink does.
fn share(pixel: &[u8], ground: Point, inks: &[Ink], index: usize) -> f32 {
    let pixel = [pixel[0], pixel[1], pixel[2]].map(f64::from);
    let mut best = (OFF_LINE, None);
    for (i, ink) in inks.iter().enumerate() {
        let (mut along, mut length) = (0.0, 0.0);
        for channel in 0..3 {
            let step = ink.seen[channel] - ground[channel];
            along += (pixel[channel] - ground[channel]) * step;
            length += step * step;
        }
        let share = (along / length).clamp(0.0, 1.0);
        let mut mixed = ground;
        for (value, ink) in mixed.iter_mut().zip(ink.seen) {
            *value += share * (ink - *value);
        }
        let away = distance(pixel, mixed);
        if away < best.0 {
            best = (away, Some((i, share)));
        }
    }
    match best.1 {
        Some((i, share)) if i == index => share as f32,
        _ => 0.0,
    }
}

/// Keeps the largest connected part of what is covered.
fn largest_part(mut cover: Cover) -> Option<Seen> {
    let (labels, sizes) = components(&cover);
    let (largest, size) = sizes
        .iter()
        .copied()
        .enumerate()
        .max_by_key(|(_, size)| *size)?;
    if (size as f64) < LEAST_SHARE * labels.len() as f64 {
        return None;
    }
    let (mut low, mut high) = ([usize::MAX; 2], [0; 2]);
    for (i, label) in labels.iter().enumerate() {
        if *label == Some(largest) {
            let place = [i % cover.width, i / cover.width];
            for axis in 0..2 {
                low[axis] = low[axis].min(place[axis]);
                high[axis] = high[axis].max(place[axis]);
            }
        }
    }
    let (mut area, mut sum) = (0.0, [0.0; 2]);
    for (i, share) in cover.shares.iter_mut().enumerate() {
        let place = [i % cover.width, i / cover.width];
        // Soft edges reach a little over the part itself.
        let near = (0..2).all(|a| place[a] + 2 >= low[a] && place[a] <= high[a] + 2);
        let other = labels[i].is_some_and(|label| label != largest);
        if !near || other || *share < NOISE {
            *share = 0.0;
        }
        let weight = f64::from(*share);
        area += weight;
        for axis in 0..2 {
            sum[axis] += weight * (place[axis] as f64 + 0.5);
        }
    }
    let large = |s: &&usize| **s as f64 >= SECOND_PART * size as f64;
    let centre = sum.map(|s| s / area);
    let corner = |axis: usize| {
        let (low, high) = (low[axis] as f64, high[axis] as f64 + 1.0);
        (centre[axis] - low).max(high - centre[axis])
    };
    let farthest = corner(0).hypot(corner(1));
    Some(Seen {
        area,
        centre,
        cut: low.contains(&0) || high[0] + 1 == cover.width || high[1] + 1 == cover.height,
        parts: sizes.iter().filter(large).count(),
        profile: Profile::of(&cover, centre, farthest + 2.0),
    })
}

/// Labels of the connected parts (corners connect) and their sizes in pixels.
fn components(cover: &Cover) -> (Vec<Option<usize>>, Vec<usize>) {
    let mut labels = vec![None; cover.shares.len()];
    let mut sizes = Vec::new();
    let mut open = Vec::new();
    for start in 0..labels.len() {
        if labels[start].is_some() || cover.shares[start] < INSIDE {
            continue;
        }
        let label = sizes.len();
        sizes.push(0);
        labels[start] = Some(label);
        open.push(start);
        while let Some(i) = open.pop() {
            sizes[label] += 1;
            let (row, column) = (i / cover.width, i % cover.width);
            for r in row.saturating_sub(1)..(row + 2).min(cover.height) {
                for c in column.saturating_sub(1)..(column + 2).min(cover.width) {
                    let j = r * cover.width + c;
                    if labels[j].is_none() && cover.shares[j] >= INSIDE {
                        labels[j] = Some(label);
                        open.push(j);
                    }
                }
            }
        }
    }
    (labels, sizes)
}
