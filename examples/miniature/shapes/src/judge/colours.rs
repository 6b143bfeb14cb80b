//! Which colours there are.

use crate::{Background, Colour, RenderedClip};

/// Red, green and blue, 0 to 255.
pub(super) type Point = [f64; 3];

/// How far a colour may be from the named one and still be called by that name.
const SAME_COLOUR: f64 = 105.0;
/// Pixels no farther from the background are background.
const SAME_GROUND: f64 = 50.0;
/// Least share of the frame that an object's inner pixels cover.
const LEAST_SHARE: f64 = 0.002;
/// Least number of inner pixels, as a share of those of the most frequent colour.
const LEAST_RELATIVE: f64 = 0.08;

/// The background.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// Its colour in every frame.
    pub frames: Vec<Point>,
}

impl Ground {
    /// The nearest name, if it is near.
    pub fn name(&self) -> Option<Background> {
        let mut middle = [0.0; 3];
        for (channel, value) in middle.iter_mut().enumerate() {
            *value = median(self.frames.iter().map(|f| f[channel]).collect());
        }
        let named = Background::ALL
            .iter()
            .map(|b| (distance(middle, point(b.rgb())), *b));
        let (away, name) = named.min_by(|a, b| a.0.total_cmp(&b.0))?;
        (away < SAME_COLOUR).then_some(name)
    }
}

/// The background of every frame: the median of the pixels along its edges.
pub(super) fn ground(clip: &RenderedClip) -> Ground {
    let [_, height, width] = clip.shape();
    let strip = (width.min(height) / 32).max(1);
    let on_edge = |index: usize| {
        let (row, column) = (index / width, index % width);
        row.min(height - 1 - row) < strip || column.min(width - 1 - column) < strip
    };
    let frames = clip.frames().map(|frame| {
        let pixels = frame.chunks_exact(3).enumerate();
        let edge: Vec<&[u8]> = pixels
            .filter(|(i, _)| on_edge(*i))
            .map(|(_, p)| p)
            .collect();
        let mut colour = [0.0; 3];
        for (channel, value) in colour.iter_mut().enumerate() {
            *value = median(edge.iter().map(|p| f64::from(p[channel])).collect());
        }
        colour
    });
    Ground {
        frames: frames.collect(),
    }
}

/// A colour that some object has.
#[derive(Debug, Clone)]
pub(super) struct Ink {
    pub colour: Colour,
    /// The median of the object's inner pixels.
    pub seen: Point,
}

/// The colours of objects, the most frequent first. Only pixels whose neighbours have the same name
/// count: mixtures along edges may come near to other colours.
pub(super) fn inks(clip: &RenderedClip, ground: &Ground) -> Vec<Ink> {
    let [frames, height, width] = clip.shape();
    let mut pixels: Vec<Vec<&[u8]>> = vec![Vec::new(); Colour::ALL.len()];
    for (frame, ground) in clip.frames().zip(&ground.frames) {
        let names: Vec<Option<usize>> = frame.chunks_exact(3).map(|p| name(p, *ground)).collect();
        for row in 1..height.saturating_sub(1) {
            for column in 1..width.saturating_sub(1) {
                let i = row * width + column;
                let Some(colour) = names[i] else { continue };
                let around = [i - 1, i + 1, i - width, i + width];
                if around.iter().all(|j| names[*j] == Some(colour)) {
                    pixels[colour].push(&frame[3 * i..3 * i + 3]);
                }
            }
        }
    }
    let most = pixels.iter().map(Vec::len).max().unwrap_or(0) as f64;
    let least = LEAST_SHARE * (frames * height * width) as f64;
    let mut found: Vec<(usize, Ink)> = Vec::new();
    for (colour, pixels) in Colour::ALL.iter().zip(&pixels) {
        if (pixels.len() as f64) < least.max(LEAST_RELATIVE * most) {
            continue;
        }
        let mut seen = [0.0; 3];
        for (channel, value) in seen.iter_mut().enumerate() {
            *value = median(pixels.iter().map(|p| f64::from(p[channel])).collect());
        }
        let ink = Ink {
            colour: *colour,
            seen,
        };
        found.push((pixels.len(), ink));
    }
    found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    found.into_iter().map(|(_, ink)| ink).collect()
}

/// The index of the named colour nearest to a pixel, unless it is background or near none.
fn name(pixel: &[u8], ground: Point) -> Option<usize> {
    let pixel = [pixel[0], pixel[1], pixel[2]].map(f64::from);
    let to_ground = distance(pixel, ground);
    if to_ground < SAME_GROUND {
        return None;
    }
    let named = Colour::ALL.iter().map(|c| distance(pixel, point(c.rgb())));
    let (index, away) = named.enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (away < SAME_COLOUR.min(to_ground)).then_some(index)
}

pub(super) fn point(rgb: [u8; 3]) -> Point {
    rgb.map(f64::from)
}

pub(super) fn distance(a: Point, b: Point) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f64>().sqrt()
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return f64::NAN;
    }
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
